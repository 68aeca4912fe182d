"""The chain solver: the best persistent nested schedule over all options, with a certified lower bound.

Two runs of tables.py on one grid: sizes rounded up for the plan, rounded down for the bound. The promise is that of
simulate(), never the grid's; since rounding up wastes memory, the plan is taken from the last slot past the limit whose
schedule still fits.
"""

import numpy as np

from foldfit.errors import DoesNotFit
from foldfit.planner.grid import SLOTS, Grid, all_kept, make_grid
from foldfit.planner.solution import Frontier, Solution, Step, faster_runs, solved, timeline_of
from foldfit.planner.table import Chain, Record
from foldfit.planner.tables import Blocks, Tables
from foldfit.units import format_bytes


def solve(chain: Chain, limit: int, slots: int = SLOTS) -> Solution:
    """The least seconds within `limit` bytes. Raises DoesNotFit with the least need found, ValueError
    for `slots` < 1 or a sub-module that cannot be recorded."""
    grid = grid_within(chain, limit, slots)
    up = Tables(Blocks(chain), grid, up=True) if grid else None
    steps = fitting_plan(up, limit) if up else None
    if steps is None:
        steps = thin_plan(chain, limit, slots)
    assert up is not None  # else thin_plan raises: less than what stays is less than what anything needs
    curve = frontier_of(up)
    return solved(chain, steps, float(curve.bound[up.grid.slots]), curve)


def frontier(chain: Chain, limit: int, slots: int = SLOTS) -> Frontier:
    """Least seconds and bound at every slot up to `limit` bytes and a little beyond. Raises DoesNotFit as `solve`."""
    grid = grid_within(chain, limit, slots)
    up = Tables(Blocks(chain), grid, up=True) if grid else None
    if up is None or not np.isfinite(up.suffix[0]).any():
        thin_plan(chain, limit, slots)
    assert up is not None
    return frontier_of(up)


def bound(chain: Chain, limit: int, slots: int = SLOTS) -> float:
    """Seconds that no persistent nested schedule within `limit` bytes can go below; infinite where none fits."""
    grid = grid_within(chain, limit, slots)
    return float("inf") if grid is None else float(Tables(Blocks(chain), grid, up=False).suffix[0][grid.slots])


def grid_within(chain: Chain, limit: int, slots: int) -> Grid | None:
    """Memory past what keeping everything takes buys nothing, so that the grid ends there."""
    room = limit - chain.base_backward
    return make_grid(chain, min(room, all_kept(chain)), slots) if room >= 0 else None


def frontier_of(up: Tables) -> Frontier:
    down = up if up.grid.exact else Tables(up.blocks, up.grid, up=False)
    limits = up.blocks.chain.base_backward + up.grid.bytes()
    complete = up.grid.top >= all_kept(up.blocks.chain)
    return Frontier(limits, up.suffix[0], np.minimum(down.suffix[0], up.suffix[0]), complete)


def fitting_plan(tables: Tables, limit: int) -> list[Step] | None:
    """The steps from the last slot whose schedule fits."""
    found = last_fitting(tables, limit, Walker)
    return None if found is None else faster_runs(tables.blocks.chain, found[1], limit)


def last_fitting(tables: Tables, limit: int, walker: "type[Walker]") -> tuple[int, list[Step]] | None:
    """The last slot whose schedule fits and its steps, found by bisection past the limit's own slot."""
    chain, grid = tables.blocks.chain, tables.grid
    finite = np.flatnonzero(np.isfinite(tables.suffix[0]))
    if not len(finite):
        return None
    found: tuple[int, list[Step]] | None = None
    low, high = max(grid.slots, int(finite[0])), grid.last
    while low <= high:
        # The limit's own slot fits for sure: try it first, then halve what is beyond.
        slot = low if found is None else (low + high + 1) // 2
        steps = walk(tables, slot, walker)
        if timeline_of(chain, steps).peak <= limit:
            found, low = (slot, steps), slot + 1
        else:
            high = slot - 1
    return found


class Walker:
    """Follows the tables down from a value to the cases that gave it. A suffix's first visit is `first`."""

    def __init__(self, tables: Tables, steps: list[Step]) -> None:
        self.tables, self.steps = tables, steps
        self.held: set[int] = set()

    def part(self, s: int, t: int, m: int, first: bool) -> None:
        tables = self.tables
        preserved, recorded = self.best_record(s, t, m, first)
        restart, restarted = self.best_restart(s, t, m, first)
        if recorded <= restarted:
            table = tables.record_at(s) if first else tables.record[tables.blocks.kind[s]]
            self.record(s, table.choose(m, preserved if s < t else None))
            if s < t:
                self.part(s + 1, t, m - preserved, first)
            elif first:
                self.steps.append(Step("end"))
            self.steps.append(Step("backward", s))
            return
        if s not in self.held:
            self.held.add(s)
            self.steps.append(Step("check", s))
        for block in range(s, restart):
            run = (tables.first_run if first else tables.run)[tables.blocks.kind[block]]
            self.steps.append(Step("run", block, run.choose(m)))
        self.go_on(restart, t, m, first)
        self.steps.append(Step("load", s))
        self.part(s, restart - 1, m, first=False)

    def go_on(self, s: int, t: int, m: int, first: bool) -> None:
        """From a block whose input is inside m."""
        self.part(s, t, m - self.tables.width[s], first)

    def kept(self, s: int, t: int, m: int, first: bool) -> float:
        """Seconds of `go_on`."""
        w = self.tables.width[s]
        return float(self.rest(s, t, first)[m - w]) if w <= m else float("inf")

    def record(self, s: int, options: tuple[Record, ...]) -> None:
        if s in self.held:
            self.held.remove(s)
            self.steps.append(Step("free", s))
        self.steps.append(Step("record", s, options))

    def rest(self, s: int, t: int, first: bool) -> np.ndarray:
        return self.tables.suffix[s] if first else self.tables.c(s, t)

    def best_record(self, s: int, t: int, m: int, first: bool) -> tuple[int, float]:
        """(slots preserved, seconds) of the best record of s at slot m."""
        tables = self.tables
        table = tables.record_at(s) if first else tables.record[tables.blocks.kind[s]]
        if s == t:
            return 0, float(table.best[m])
        count = min(len(table.rows), m - table.first + 1)
        if count < 1:
            return 0, float("inf")
        seconds = table.rows[:count, m] + self.rest(s + 1, t, first)[m - table.first - np.arange(count)]
        row = int(np.argmin(seconds))
        return table.first + row, float(seconds[row])

    def best_restart(self, s: int, t: int, m: int, first: bool) -> tuple[int, float]:
        """(block to run to, seconds) of the best way to run on from s and come back."""
        tables, best, running = self.tables, (-1, float("inf")), 0.0
        for r in range(s + 1, t + 1):
            running += (tables.first_run if first else tables.run)[tables.blocks.kind[r - 1]].seconds[m]
            seconds = running + self.kept(r, t, m, first) + tables.c(s, r - 1)[m]
            if seconds < best[1]:
                best = (r, float(seconds))
        return best


def walk(tables: Tables, slot: int, walker: type[Walker] = Walker) -> list[Step]:
    """The steps of the schedule behind a finite value of the whole chain's table."""
    steps: list[Step] = []
    walker(tables, steps).part(0, len(tables.blocks) - 1, slot, first=True)
    return steps


def thin_plan(chain: Chain, limit: int, slots: int) -> list[Step]:
    """The steps of the least peak found, where rounding hides that it is within the limit. Raises DoesNotFit if not."""
    steps = least_memory(chain, slots)
    least = timeline_of(chain, steps)
    if least.peak <= limit:
        return faster_runs(chain, steps, limit)
    message = f"training needs at least {format_bytes(least.peak)} (at {least.peak_at}), the limit is {format_bytes(limit)}"
    raise DoesNotFit(message, need=least.peak, have=limit, where=least.peak_at)


def least_memory(chain: Chain, slots: int = SLOTS) -> list[Step]:
    """The steps of the least peak found: the chain DP on ever finer grids, until its smallest plan is no smaller."""
    blocks, room = Blocks(chain), all_kept(chain)
    best: list[Step] = []
    while True:
        tables = Tables(blocks, make_grid(chain, room, slots), up=True)
        finite = np.flatnonzero(np.isfinite(tables.suffix[0]))
        if not len(finite):
            return best
        steps = walk(tables, int(finite[0]))
        peak = timeline_of(chain, steps).peak - chain.base_backward
        if best and peak >= room:
            return best
        best, room = steps, peak
