"""The study's own recurrence as a solver: f(i, max(p, r), q + s) = min(f(i - 1, p, q) + t(r, s)).

Every sub-module of every block is recorded once, and the memory is the largest intermediate r plus the sum of all that
is preserved, whatever the moment: an upper bound on simulate()'s peak, without recomputing blocks. For a level that no
intermediate may exceed, what is left is a knapsack over preserved bytes; n equal blocks are its n-th (min, +) power.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from foldfit.errors import DoesNotFit
from foldfit.planner import chain as chain_solver
from foldfit.planner.grid import SLOTS
from foldfit.planner.prune import records_of, undominated
from foldfit.planner.solution import Solution, Step, solved, timeline_of
from foldfit.planner.table import Chain, Record, Stage, Sub

LEVELS = 48
"""Most levels of the largest intermediate that are tried."""


@dataclass(frozen=True)
class Item:
    """An option as (r, s, t): `inter` beyond base_backward and all that is preserved, its own included."""

    inter: int
    saved: int
    seconds: float
    option: Record


Block = list[list[Item]]


@dataclass
class Sums:
    """table[level, slot]: least seconds of some blocks that save at most `slot` slots. Either one block, `steps` its
    tables before each sub-module, or two parts."""

    table: np.ndarray
    block: Block = field(default_factory=list)
    steps: list[np.ndarray] = field(default_factory=list)
    parts: tuple["Sums", "Sums"] | None = None

    def choose(self, level: int, slot: int, high: int, unit: int) -> list[tuple[Record, ...]]:
        """The options of each block behind a finite cell; no intermediate is above `high` bytes."""
        if self.parts:
            a, b = self.parts
            split = int(np.argmin(a.table[level, : slot + 1] + b.table[level, slot::-1]))
            return a.choose(level, split, high, unit) + b.choose(level, slot - split, high, unit)
        chosen: list[Record] = []
        for items, before in zip(reversed(self.block), reversed(self.steps), strict=True):
            reach = [(i, slot - -(-i.saved // unit)) for i in items if i.inter <= high]
            item, slot = min((x for x in reach if x[1] >= 0), key=lambda x: before[level, x[1]] + x[0].seconds)
            chosen.append(item.option)
        return [tuple(reversed(chosen))]


def items_of(chain: Chain, stage: Stage, sub: Sub) -> list[Item]:
    items = []
    for o in records_of(sub):
        forward = chain.base_forward - chain.base_backward + max(o.inter, o.saved) - o.saved
        back = stage.state + max(o.back, o.saved) - o.saved - sub.written
        items.append(Item(max(forward, back), o.saved, o.seconds + o.back_seconds, o))
    kept = undominated([i.inter for i in items], [i.saved for i in items], [i.seconds for i in items])
    return [items[k] for k in kept]


def solve(chain: Chain, limit: int, slots: int = SLOTS) -> Solution:
    """The least seconds of recording everything once, with max r + sum s within `limit` bytes. The bound is the chain
    solver's. Raises DoesNotFit with the exact need of this memory model, ValueError for `slots` < 1."""
    if slots < 1:
        raise ValueError(f"expected slots >= 1, got {slots}")
    blocks = [([items_of(chain, stage, sub) for sub in stage.subs], count) for stage, count in chain.runs]
    room = limit - chain.base_backward - sum(count * sum(sub.written for sub in stage.subs) for stage, count in chain.runs)
    needs = {level: saved + level for level, saved in least_saved(blocks).items()}
    if not needs or min(needs.values()) > room:
        raise too_small(chain, limit, blocks, needs, room)
    fitting = sorted(level for level, need in needs.items() if need <= room)
    levels = [fitting[int(i)] for i in np.unique(np.linspace(0, len(fitting) - 1, LEVELS).astype(int))]
    most = sum(count * sum(max(i.saved for i in items) for items in block) for block, count in blocks)
    unit = max(1, -(-min(room - levels[0], most) // (2 * slots)))
    width = 1 + min(room - levels[0], most) // unit
    width += width // 8 if unit > 1 else 0
    whole = total([power(one_block(block, levels, unit, width), count) for block, count in blocks])
    steps = last_fitting(chain, whole, levels, room, unit)
    if steps is None:  # all that fits was lost to rounding up
        steps = thinnest(chain, blocks, min(needs, key=lambda level: needs[level]))
    return solved(chain, steps, chain_solver.bound(chain, limit, slots))


def least_saved(blocks: Sequence[tuple[Block, int]]) -> dict[int, int]:
    """The least bytes saved by level, for each level at which every sub-module has an option."""
    every = [items for block, _ in blocks for items in block]
    lowest = max(min(i.inter for i in items) for items in every)
    levels = sorted({i.inter for items in every for i in items if i.inter >= lowest})
    out = np.zeros(len(levels), dtype=np.int64)
    for block, count in blocks:
        for items in block:
            by_inter = sorted((i.inter, i.saved) for i in items)
            least = np.minimum.accumulate(np.array([saved for _, saved in by_inter], dtype=np.int64))
            out += count * least[np.searchsorted([inter for inter, _ in by_inter], levels, side="right") - 1]
    return dict(zip(levels, out.tolist(), strict=True))


def one_block(block: Block, levels: list[int], unit: int, width: int) -> Sums:
    table, steps = np.zeros((len(levels), width)), []
    for items in block:
        steps.append(table)
        after = np.full_like(table, np.inf)
        for item in items:
            start, slot = int(np.searchsorted(levels, item.inter)), -(-item.saved // unit)
            if slot < width:
                target = after[start:, slot:]
                np.minimum(target, table[start:, : width - slot] + item.seconds, out=target)
        table = after
    return Sums(table, block, steps)


def add(a: Sums, b: Sums) -> Sums:
    """The (min, +) product: both, in the best split of what they save."""
    width = a.table.shape[1]
    out = np.full_like(a.table, np.inf)
    buffer = np.empty_like(out)
    for slot in range(width):
        moved = np.add(a.table[:, slot : slot + 1], b.table[:, : width - slot], out=buffer[:, : width - slot])
        np.minimum(out[:, slot:], moved, out=out[:, slot:])
    return Sums(out, parts=(a, b))


def power(one: Sums, count: int) -> Sums:
    if count == 1:
        return one
    half = power(one, count // 2)
    both = add(half, half)
    return add(both, one) if count % 2 else both


def total(parts: list[Sums]) -> Sums:
    out = parts[0]
    for part in parts[1:]:
        out = add(out, part)
    return out


def last_fitting(chain: Chain, whole: Sums, levels: list[int], room: int, unit: int) -> list[Step] | None:
    """Slots round up, so that a plan from a few slots too many may still fit: the last one that does, by bisection."""
    found: list[Step] | None = None
    width = whole.table.shape[1]
    low, high = 0, width // 9 if unit > 1 else 0
    while low <= high:
        extra = low if found is None else (low + high + 1) // 2
        at = [min((room - level) // unit + extra, width - 1) for level in levels]
        seconds = whole.table[np.arange(len(levels)), at]
        level = int(np.argmin(seconds))
        if not np.isfinite(seconds[level]):
            low = extra + 1
            continue
        blocks = whole.choose(level, at[level], levels[level], unit)
        if max_plus_sum(chain, blocks) <= room:
            found, low = record_all(blocks), extra + 1
        else:
            high = extra - 1
    return found


def max_plus_sum(chain: Chain, blocks: Sequence[tuple[Record, ...]]) -> int:
    """max r + sum s in bytes, written versions apart."""
    top, saved = None, 0
    for stage, options in zip(chain.stages(), blocks, strict=True):
        for sub, option in zip(stage.subs, options, strict=True):
            item = items_of(chain, stage, Sub(sub.name, sub.written, (), (option,)))[0]
            top, saved = item.inter if top is None else max(top, item.inter), saved + item.saved
    return (top or 0) + saved


def record_all(blocks: Sequence[tuple[Record, ...]]) -> list[Step]:
    forward = [Step("record", i, options) for i, options in enumerate(blocks)]
    return [*forward, Step("end"), *(Step("backward", i) for i in reversed(range(len(blocks))))]


def thinnest(chain: Chain, blocks: Sequence[tuple[Block, int]], level: int) -> list[Step]:
    """Everything recorded with the least saved at a level."""
    chosen = [
        tuple(min((i for i in items if i.inter <= level), key=lambda i: (i.saved, i.seconds)).option for items in block)
        for block, count in blocks
        for _ in range(count)
    ]
    return record_all(chosen)


def too_small(chain: Chain, limit: int, blocks: Sequence[tuple[Block, int]], needs: dict[int, int], room: int) -> DoesNotFit:
    level = min(needs, key=lambda level: needs[level])
    need, where = limit - room + needs[level], timeline_of(chain, thinnest(chain, blocks, level)).peak_at
    message = f"recording every block once needs {need} bytes (at {where}), the limit is {limit}"
    return DoesNotFit(message, need=need, have=limit, where=where)
