"""Block composition: from the options of a block's sub-modules to the least seconds for every memory.

A recorded block preserves P = sum of (written + saved) and needs at its peak Q bytes beyond its input, forward and
backward. T[P, Q], the least seconds of record and backward together, is found over all combinations of options by a
dynamic program over the sub-modules. What earlier sub-modules wrote is the same for every combination and enters
exactly; what they saved is counted in fine slots, so that in the coordinates (Q, Q - saved) an option is a shift of a
slice: it leads from slack r to r - saved wherever r is at least its need.
"""

from dataclasses import dataclass
from math import isqrt

import numpy as np

from foldfit.planner.grid import Grid
from foldfit.planner.prune import kept_records, stairs, undominated
from foldfit.planner.table import Forward, Record, Stage

TILE = 1 << 15
"""Table cells worked on at a time: they stay in a core's cache."""


@dataclass(frozen=True)
class SubNeeds:
    """The record options of a sub-module under one phase: `need` bytes of slack, `saved` bytes, seconds."""

    options: tuple[Record, ...]
    need: np.ndarray
    saved: np.ndarray
    seconds: np.ndarray


def needs_of(stage: Stage, kept: list[tuple[Record, ...]], forward: int, back: int, handed_over: bool) -> list[SubNeeds]:
    """What each option needs beyond what earlier sub-modules saved: the larger of its two peaks (simulate.py).

    `forward`, `back`: bytes alive beside the block in its recorded run and in its backward; `handed_over`: the final
    versions belong to the caller in backward.
    """
    out, written, remaining = [], 0, 0
    for sub, options in zip(stage.subs, kept, strict=True):
        recorded = np.array([max(o.inter, o.saved) for o in options], dtype=np.int64) + forward + written + sub.written
        behind = np.array([max(o.back, o.saved) for o in options], dtype=np.int64) + back + remaining
        saved = np.array([o.saved for o in options], dtype=np.int64)
        seconds = np.array([o.seconds + o.back_seconds for o in options])
        out.append(SubNeeds(options, np.maximum(recorded, behind), saved, seconds))
        written += sub.written
        remaining += 0 if handed_over and sub.final else sub.written
    return out


class BlockTable:
    """T[P, Q] in slots: `rows[i, q]` seconds with `first + i` slots preserved and a peak within slot q."""

    def __init__(self, stage: Stage, needs: list[SubNeeds], grid: Grid, up: bool) -> None:
        self.grid, self.up = grid, up
        self.written = sum(sub.written for sub in stage.subs)
        self.moves: list[list[tuple[int, int, float, Record]]] = []
        for sub in needs:
            saved = grid.fine_slots(sub.saved, up)
            # Slack is counted from `ratio` below slot 0, where rounding can lead.
            need = np.maximum(grid.fine_need(sub.need) + grid.ratio, saved)
            kept = undominated(need, saved, sub.seconds)
            self.moves.append([(int(need[i]), int(saved[i]), float(sub.seconds[i]), sub.options[i]) for i in kept])
        self.most = sum(max(saved for _, saved, _, _ in moves) for moves in self.moves)
        enough = max(need for moves in self.moves for need, _, _, _ in moves) + self.most
        self.top = min(grid.last, -(-enough // grid.ratio) + 1)
        saved = np.arange(self.most + 1)
        self.preserved = np.asarray(grid.slots_of(self.written, up, saved))
        self.first = int(self.preserved[0])
        self.rows, self.best = self.compose()
        self.walked: dict[int, tuple[np.ndarray, int, list[np.ndarray]]] = {}

    def compose(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows worth having, and the least seconds whatever is preserved: a block that nothing follows may preserve
        more than its backward starts from."""
        grid, starts = self.grid, np.flatnonzero(np.diff(self.preserved, prepend=self.first - 1))
        table = np.full((len(starts), grid.last + 1), np.inf)
        q = 0
        while q <= self.top:
            count = max(1, min(self.top + 1 - q, TILE // (self.most + 1), isqrt(TILE // grid.ratio)))
            cells, low = self.slacks(q, count)
            columns = (np.arange(q, q + count) * grid.ratio + grid.ratio - low)[:, None] - np.arange(self.most + 1)
            seconds = np.where(columns >= 0, np.take_along_axis(cells, np.maximum(columns, 0), axis=1), np.inf)
            table[:, q : q + count] = np.minimum.reduceat(seconds, starts, axis=1).T
            q += count
        table[:, self.top + 1 :] = table[:, self.top : self.top + 1]
        least = np.minimum.accumulate(table, axis=0)
        useful = np.flatnonzero((table[1:] < least[:-1]).any(axis=1))
        end = min(int(useful[-1]) + 2 if len(useful) else 1, max(1, grid.last + 1 - self.first))
        return np.ascontiguousarray(table[:end]), least[-1]

    def slacks(self, q: int, count: int, history: list[np.ndarray] | None = None) -> tuple[np.ndarray, int]:
        """Least seconds by slack, of `count` peaks from slot q on, and the slack of the first column."""
        ratio = self.grid.ratio
        low = max(0, q * ratio + ratio - self.most)
        width = (q + count - 1) * ratio + ratio + 1 - low
        cells = np.full((count, width), np.inf)
        cells[np.arange(count), np.arange(q, q + count) * ratio + ratio - low] = 0
        buffer = np.empty_like(cells)
        for moves in self.moves:
            if history is not None:
                history.append(cells[0])
            after = np.full_like(cells, np.inf)
            for need, saved, seconds, _ in moves:
                start = max(need - low, saved)
                if start < width:
                    moved = np.add(cells[:, start:], seconds, out=buffer[:, : width - start])
                    target = after[:, start - saved : width - saved]
                    np.minimum(target, moved, out=target)
            cells = after
        return cells, low

    def choose(self, slot: int, preserved: int | None) -> tuple[Record, ...]:
        """The options behind a finite T[preserved, slot], or behind `best` with None."""
        q = min(slot, self.top)
        if q not in self.walked:
            history: list[np.ndarray] = []
            self.walked[q] = *self.slacks(q, 1, history), history
        cells, low, history = self.walked[q]
        saved = np.arange(self.most + 1) if preserved is None else np.flatnonzero(self.preserved == preserved)
        columns = q * self.grid.ratio + self.grid.ratio - saved - low
        columns = columns[columns >= 0]
        column = int(columns[np.argmin(cells[0, columns])])
        chosen = []
        for moves, before in zip(reversed(self.moves), reversed(history), strict=True):
            reach = [m for m in moves if max(m[0] - low, m[1]) <= column + m[1] < len(before)]
            _, saved_slots, _, option = min(reach, key=lambda m: before[column + m[1]] + m[2])
            chosen.append(option)
            column += saved_slots
        return tuple(reversed(chosen))

    def extend(self, rest: np.ndarray) -> np.ndarray:
        """min over P of T[P, m] + rest[m - P]: record this block, then the rest in what is left."""
        count, width = self.rows.shape
        pad = self.first + count - 1
        padded = np.concatenate([np.full(pad, np.inf), rest])
        step = padded.itemsize
        shifted = np.lib.stride_tricks.as_strided(padded[pad - self.first :], (count, width), (-step, step), writeable=False)
        out = np.full(width, np.inf)
        tile = max(1, TILE // width)
        buffer = np.empty((tile, width))
        for i in range(0, count, tile):
            start, some = self.first + i, min(tile, count - i)
            if start >= width:
                break
            sums = np.add(self.rows[i : i + some, start:], shifted[i : i + some, start:], out=buffer[:some, start:])
            np.minimum(out[start:], sums.min(axis=0), out=out[start:])
        return out


class PlainRun:
    """U(room): the least seconds of running a block in place, for every slot; with what stands beside it."""

    def __init__(self, stage: Stage, grid: Grid, beside: int) -> None:
        self.stairs = [stairs(sub) for sub in stage.subs]
        room = grid.bytes() - beside - stage.state
        self.seconds = np.zeros(grid.last + 1)
        for steps in self.stairs:
            step = np.searchsorted(np.array([o.inter for o in steps], dtype=np.int64), room, side="right")
            self.seconds += np.array([np.inf, *(o.seconds for o in steps)])[step]
        self.room = room

    def choose(self, slot: int) -> tuple[Forward, ...]:
        """The options behind finite seconds."""
        return tuple(next(o for o in reversed(steps) if o.inter <= self.room[slot]) for steps in self.stairs)


def kept_options(stage: Stage) -> list[tuple[Record, ...]]:
    return [kept_records(sub) for sub in stage.subs]
