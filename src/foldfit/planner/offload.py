"""Host offload: block inputs of the forward phase wait in pinned host memory for their backward.

F of tables.py with one case more, and k units of host memory. In H(s, m, k) the input of s is inside m, and may go to the
host, where it takes h_s units:

    F(s, m, k) = min of  record s, as before
                         min over s' of  U'_s(m) + ... + U'_s'-1(m) + H(s', m, k) + C(s, s'-1, m)
    H(s, m, k) = min of  F(s, m - w_s, k)
                         min over s' of  U'_s(m - w_s) + U'_s+1(m) + ... + H(s', m, k - h_s) + C(s, s'-1, m - w_s)

The copies themselves are free here: with sizes rounded down, F is a lower bound of what any link allows. The schedule of F
drops an input right after its block's run and fetches it right before it is loaded; placement.py moves both apart as far as
the limit allows, so that computation hides the copies. What it cannot hide, simulate() counts. So the plan is the best
of several slots and k: with fewer copies, or with more room for them, where they are exposed.
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import replace

import numpy as np

from foldfit.planner import chain as chain_solver
from foldfit.planner.chain import Walker
from foldfit.planner.grid import SLOTS, Grid
from foldfit.planner.placement import place
from foldfit.planner.solution import Solution, Step, faster_runs, solved
from foldfit.planner.table import Chain
from foldfit.planner.tables import Blocks, Tables

HALVES = 5
"""Plans tried of a table, each with room for half an input more on its way than the one before."""

HIDDEN = 1e-3
"""Exposed part of a plan's seconds below which no other is tried."""


def solve(chain: Chain, limit: int, slots: int = SLOTS) -> Solution:
    """The least seconds found within `limit` bytes and the chain's host memory: never more than without a host. The bound is
    that of free copies. Raises as chain.py's: what fits with a host fits without one, if slowly, since every input can be made
    again from the first one, and running a block takes no more than recording it."""
    best = chain_solver.solve(chain, limit, slots)
    if not chain.host_memory:
        return best
    grid = chain_solver.grid_within(chain, limit, slots)
    assert grid is not None
    search = Search(chain, grid, limit, best)
    return replace(search.best, bound_seconds=min(search.best.seconds, search.bound))


class HostTables(Tables):
    """`first[s]` is F and `head[s]` H, by k and slot; `suffix[s]` is F at all `units` of host memory."""

    def __init__(self, blocks: Blocks, grid: Grid, up: bool, host: int | None = None) -> None:
        """`host`: bytes of host memory, None for as much as it takes."""
        longest = max(blocks.chain.runs, key=lambda run: run[1])[0].state
        self.units = 0 if host is None else host // longest
        self.cost = [0 if host is None else -(-stage.state // longest) if up else stage.state // longest for stage in blocks.stages]
        super().__init__(blocks, grid, up)

    def within(self, units: int) -> "HostTables":
        """The same for less host memory."""
        other = copy(self)
        other.units = units
        other.suffix = [table[units] for table in self.first]
        return other

    def fill_suffixes(self) -> None:
        n, shape = len(self.blocks), (self.units + 1, self.grid.last + 1)
        self.first, self.head = [np.empty(0)] * n, [np.empty(0)] * n
        for s in reversed(range(n)):
            table = self.record_at(s)
            rows = [table.extend(self.first[s + 1][k]) if s < n - 1 else table.best for k in range(shape[0])]
            stay = np.array(rows)
            go, cost = np.full(shape, np.inf), self.cost[self.blocks.kind[s]]
            for r, running in self.runs(s, 0):
                np.minimum(stay, self.head[r] + (running + self.c(s, r - 1)), out=stay)
            for r, running in self.runs(s, self.width[s]):
                again = running + less(self.c(s, r - 1), self.back(s))
                np.minimum(go[cost:], self.head[r][: max(0, shape[0] - cost)] + again, out=go[cost:])
            self.first[s], self.head[s] = stay, np.minimum(less(stay, self.width[s]), go)
        self.suffix = [table[-1] for table in self.first]

    def runs(self, s: int, beside: int) -> Iterator[tuple[int, np.ndarray]]:
        """(s', seconds of running s to s' - 1) for every s', with `beside` slots less for s itself."""
        running = np.zeros(self.grid.last + 1)
        for r in range(s + 1, len(self.blocks)):
            seconds = self.first_run[self.blocks.kind[r - 1]].seconds
            running = running + (less(seconds, beside) if r == s + 1 else seconds)
            yield r, running

    def back(self, s: int) -> int:
        """Slots of an input that comes back from the host, all its tensors."""
        return int(self.grid.slots_of(self.blocks.stages[self.blocks.kind[s]].state, self.up))


def less(seconds: np.ndarray, slots: int) -> np.ndarray:
    """The same with so many slots less."""
    out = np.full_like(seconds, np.inf)
    out[..., slots:] = seconds[..., : max(0, seconds.shape[-1] - slots)]
    return out


class HostWalker(Walker):
    """Follows H as well: inputs that go to the host, each dropped and fetched at the last moment."""

    tables: HostTables

    def __init__(self, tables: HostTables, steps: list[Step]) -> None:
        super().__init__(tables, steps)
        self.left = tables.units

    def rest(self, s: int, t: int, first: bool) -> np.ndarray:
        return self.tables.first[s][self.left] if first else super().rest(s, t, first)

    def kept(self, s: int, t: int, m: int, first: bool) -> float:
        return float(self.tables.head[s][self.left, m]) if first else super().kept(s, t, m, first)

    def go_on(self, s: int, t: int, m: int, first: bool) -> None:
        if not first or super().kept(s, t, m, first) <= self.kept(s, t, m, first):
            return super().go_on(s, t, m, first)
        tables, w, back = self.tables, self.tables.width[s], self.tables.back(s)
        self.left -= tables.cost[tables.blocks.kind[s]]
        restart, least = s, float("inf")
        for r, running in tables.runs(s, w):
            seconds = running[m] + self.kept(r, t, m, first) + (tables.c(s, r - 1)[m - back] if back <= m else np.inf)
            restart, least = (r, seconds) if seconds < least else (restart, least)
        self.held.add(s)
        self.steps += [Step("check", s), Step("offload", s)]
        for block in range(s, restart):
            run = tables.first_run[tables.blocks.kind[block]]
            self.steps.append(Step("run", block, run.choose(m - w if block == s else m)))
            if block == s:
                self.steps.append(Step("drop", s))
        self.go_on(restart, t, m, first)
        self.steps += [Step("fetch", s), Step("load", s)]
        self.part(s, restart - 1, m - back, first=False)


class Search:
    """The best plan of a limit, and the bound."""

    def __init__(self, chain: Chain, grid: Grid, limit: int, best: Solution) -> None:
        self.chain, self.limit, self.best = chain, limit, best
        blocks = Blocks(chain)
        every = sum(stage.state for stage in chain.stages())
        enough = every <= chain.host_memory
        host = None if enough else chain.host_memory
        up = HostTables(blocks, grid, True, host)
        down = up if grid.exact and enough else HostTables(blocks, grid, False, host)
        self.bound = float(down.suffix[0][grid.slots])
        if self.take(up):
            up = HostTables(blocks, grid, True, every) if enough else up
            low, high = 0, up.units
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if self.take(up.within(middle)) else (middle, high)

    def take(self, tables: HostTables) -> bool:
        """Keeps the best plan of these tables, where it is faster than the best so far. Returns whether its copies are exposed."""
        found = chain_solver.last_fitting(tables, self.limit, HostWalker)
        if found is None:
            return False
        slot, steps = found
        least, plans = int(np.flatnonzero(np.isfinite(tables.suffix[0]))[0]), []
        while True:
            steps = faster_runs(self.chain, place(self.chain, steps, self.limit), self.limit)
            plans.append(solved(self.chain, steps, float("inf")))
            slot -= max(1, max(tables.width) // 2)
            if plans[-1].exposed == 0 or len(plans) == HALVES or slot < least:
                break
            steps = chain_solver.walk(tables, slot, HostWalker)
        own = min(plans, key=lambda plan: plan.seconds)
        if own.seconds < self.best.seconds:
            self.best = own
        return own.exposed > HIDDEN * own.seconds
