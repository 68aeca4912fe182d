"""The tables of the chain DP: least seconds of every part of the chain, for every slot of memory.

Beaumont et al., "Optimal checkpointing for heterogeneous chains" (2019/2021, hal-02352969), with options. C(s, t, m) is
the least seconds to take blocks s..t forward and backward when the input of s is held outside of m:

    C(s, t, m) = min of
      record s now:           min over P of  T_s[P, m] + C(s+1, t, m - P)
      keep the input of s', restart from s later:
                              min over s' of  U_s(m) + ... + U_s'-1(m) + C(s', t, m - w_s') + C(s, s'-1, m)

The second C of the last line has the memory of s'..t back, so that any depth of nesting falls out. T and U are those of
compose.py, w the bytes of a block's input. The gradient of the state is inside m, counted where a block runs.

The forward phase has `base_backward - base_forward` bytes more and no gradient yet. Only the first visit of each block
is in it, always the head of a suffix of the chain, so it is a second recurrence over suffixes alone:

    F(s, m) = min of  min over P of T'_s[P, m] + F(s+1, m - P)
                      min over s' of U'_s(m) + ... + F(s', m - w_s') + C(s, s'-1, m)

With sizes rounded up, every value belongs to a schedule that fits: a slot never holds more than its bytes, and each
subtracted size is at least the true one. With sizes rounded down F is a lower bound: take any persistent nested
schedule that fits. It is a tree of the two cases above; by induction from its root, each part runs in a slot of at
least its true memory, since at most the true sizes are subtracted on the way, so each part's options are among those
that T and U minimise over, and the sum of their seconds is at least F.
"""

from functools import cached_property

import numpy as np

from foldfit.planner.compose import BlockTable, PlainRun, kept_options, needs_of
from foldfit.planner.grid import Grid
from foldfit.planner.table import Chain, Stage


class Blocks:
    """The blocks of a chain, equal stages as one `kind`, and equal sub-chains as one `part`."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.stages: list[Stage] = []
        self.kind: list[int] = []
        """Of each block, the index of its stage."""
        self.input: list[int] = []
        """Bytes of each block's input, when it is kept."""
        for i, (stage, count) in enumerate(chain.runs):
            same = next((k for k, other in enumerate(self.stages) if same_blocks(other, stage)), len(self.stages))
            if same == len(self.stages):
                self.stages.append(stage)
            entry = stage.state if stage.entry is None else stage.entry
            self.input += [0 if i == 0 else entry] + [stage.state] * (count - 1)
            self.kind += [same] * count

    def __len__(self) -> int:
        return len(self.kind)

    @cached_property
    def parts(self) -> list[list[int]]:
        """parts[s][t]: a number that two sub-chains share when they have the same blocks, whatever comes before."""
        numbers: dict[tuple[int, int, int], int] = {}
        n = len(self)
        out = [[-1] * n for _ in range(n)]
        for t in range(n):
            for s in range(t, -1, -1):
                # A sub-chain is its first block and the rest, whose input costs what it costs.
                rest, size = (out[s + 1][t], self.input[s + 1]) if s < t else (-1, -1)
                out[s][t] = numbers.setdefault((self.kind[s], rest, size), len(numbers))
        return out


def same_blocks(a: Stage, b: Stage) -> bool:
    return a is b or (a.state == b.state and a.subs == b.subs)


class Tables:
    """C and F over a grid, with sizes rounded `up` (plans) or down (bounds)."""

    def __init__(self, blocks: Blocks, grid: Grid, up: bool) -> None:
        self.blocks, self.grid, self.up = blocks, grid, up
        chain = blocks.chain
        earlier = chain.base_forward - chain.base_backward
        self.width = [int(grid.slots_of(size, up)) for size in blocks.input]
        kept = [kept_options(stage) for stage in blocks.stages]
        self.cache: dict[tuple, BlockTable] = {}
        self.record = [self.table(stage, kept[k], stage.state, False) for k, stage in enumerate(blocks.stages)]
        self.first_record = [self.table(stage, kept[k], earlier, False) for k, stage in enumerate(blocks.stages)]
        last = blocks.kind[-1]
        self.last_record = self.table(blocks.stages[last], kept[last], earlier, True)
        self.run = [PlainRun(stage, grid, stage.state) for stage in blocks.stages]
        self.first_run = [PlainRun(stage, grid, earlier) for stage in blocks.stages]
        self.fill()

    def fill(self) -> None:
        """C and F from the blocks' tables."""
        self.part: dict[int, np.ndarray] = {}
        self.suffix: list[np.ndarray] = [np.empty(0)] * len(self.blocks)
        self.fill_parts()
        self.fill_suffixes()

    def table(self, stage: Stage, kept: list, forward: int, handed_over: bool) -> BlockTable:
        """T of a phase; the same one where the phase makes no difference to any need."""
        needs = needs_of(stage, kept, forward, stage.state, handed_over)
        key = (id(stage), *(sub.need.tobytes() for sub in needs))
        if key not in self.cache:
            self.cache[key] = BlockTable(stage, needs, self.grid, self.up)
        return self.cache[key]

    def record_at(self, s: int) -> BlockTable:
        """T' of the first visit of block s."""
        return self.last_record if s == len(self.blocks) - 1 else self.first_record[self.blocks.kind[s]]

    def c(self, s: int, t: int) -> np.ndarray:
        return self.part[self.blocks.parts[s][t]]

    def fill_parts(self) -> None:
        parts, kind, n = self.blocks.parts, self.blocks.kind, len(self.blocks)
        for length in range(1, n):
            for s in range(n - length):
                t = s + length - 1
                if parts[s][t] in self.part or t == n - 1:
                    continue
                table = self.record[kind[s]]
                if s == t:
                    self.part[parts[s][t]] = table.best
                    continue
                best = table.extend(self.c(s + 1, t))
                self.restart(best, self.run, s, [(r, self.c(r, t)) for r in range(s + 1, t + 1)])
                self.part[parts[s][t]] = best

    def fill_suffixes(self) -> None:
        n = len(self.blocks)
        self.suffix[n - 1] = self.record_at(n - 1).best
        for s in range(n - 2, -1, -1):
            best = self.record_at(s).extend(self.suffix[s + 1])
            self.restart(best, self.first_run, s, [(r, self.suffix[r]) for r in range(s + 1, n)])
            self.suffix[s] = best

    def restart(self, best: np.ndarray, run: list[PlainRun], s: int, rests: list[tuple[int, np.ndarray]]) -> None:
        """Lowers `best` to what the second case gives, for each s' and the table of the part from it on."""
        running = np.zeros(len(best))
        sums = np.empty(len(best))
        for r, rest in rests:
            running += run[self.blocks.kind[r - 1]].seconds
            w = self.width[r]
            if w >= len(best):
                continue
            total = np.add(rest[: len(best) - w], self.c(s, r - 1)[w:], out=sums[w:])
            total += running[w:]
            np.minimum(best[w:], total, out=best[w:])
