"""A block's table against all combinations of its options, and pruning against every component."""

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from foldfit.planner.compose import BlockTable, PlainRun, kept_options, needs_of
from foldfit.planner.grid import Grid, make_grid
from foldfit.planner.prune import kept_records, stairs, undominated
from foldfit.planner.table import Chain, Record, Stage
from tests.planner.chains import stages

QUICK = settings(max_examples=80, deadline=None)


def peak_and_preserved(stage: Stage, options: tuple[Record, ...], forward: int) -> tuple[int, int]:
    """Peak bytes beyond the input and preserved bytes, moment by moment."""
    alive, moments = 0, []
    for sub, o in zip(stage.subs, options, strict=True):
        moments.append(forward + alive + sub.written + o.inter)
        moments.append(stage.state + alive + o.back)
        alive += sub.written + o.saved
    return max(moments), alive


def parts(o: Record) -> tuple[float, ...]:
    return o.inter, o.saved, o.back, o.seconds + o.back_seconds


def combinations(stage: Stage) -> list[tuple[Record, ...]]:
    return list(product(*(sub.record for sub in stage.subs)))


def table_of(stage: Stage, grid: Grid, forward: int, up: bool = True) -> BlockTable:
    return BlockTable(stage, needs_of(stage, kept_options(stage), forward, stage.state, False), grid, up)


@QUICK
@given(stage=stages(), forward=st.integers(-20, 20))
def test_exact_table_is_the_best_of_all_combinations(stage: Stage, forward: int) -> None:
    table = table_of(stage, Grid(60, 60, 60, 1, 1, 1), forward)
    for slot in range(0, 61, 5):
        best: dict[int, float] = {}
        for options in combinations(stage):
            peak, preserved = peak_and_preserved(stage, options, forward)
            if peak <= slot:
                best[preserved] = min(best.get(preserved, np.inf), sum(o.seconds + o.back_seconds for o in options))
        assert table.best[slot] == min(best.values(), default=np.inf)
        for preserved in range(61):
            least = min((t for p, t in best.items() if p <= preserved), default=np.inf)
            rows = table.rows[: max(0, preserved - table.first + 1), slot]
            assert min(rows, default=np.inf) == least
            if 0 < len(rows) == preserved - table.first + 1 and rows[-1] == least < np.inf:
                chosen = table.choose(slot, preserved)
                peak, kept = peak_and_preserved(stage, chosen, forward)
                assert peak <= slot and kept == preserved
                assert sum(o.seconds + o.back_seconds for o in chosen) == least


@QUICK
@given(stage=stages(scale=1000), slots=st.integers(3, 40), top=st.integers(1, 60_000))
def test_rounding_up_is_feasible_and_down_is_a_bound(stage: Stage, slots: int, top: int) -> None:
    grid = make_grid(Chain(((stage, 3),), 0, 0, 0), top, slots)
    up, down = table_of(stage, grid, stage.state), table_of(stage, grid, stage.state, up=False)
    sizes = grid.bytes()
    assert sizes[grid.slots] == top
    for slot in range(0, grid.last + 1, max(1, grid.last // 7)):
        fitting = [o for o in combinations(stage) if peak_and_preserved(stage, o, stage.state)[0] <= sizes[slot]]
        seconds = [sum(o.seconds + o.back_seconds for o in options) for options in fitting]
        assert down.best[slot] <= min(seconds, default=np.inf) <= up.best[slot]
        for options, time in zip(fitting, seconds, strict=True):
            preserved = peak_and_preserved(stage, options, stage.state)[1]
            rows = down.rows[: max(0, int(grid.slots_of(preserved, up=False)) - down.first + 1), slot]
            assert preserved > sizes[-1] or min(rows) <= time
        for row in np.flatnonzero(np.isfinite(up.rows[:, slot])):
            chosen = up.choose(slot, up.first + int(row))
            peak, preserved = peak_and_preserved(stage, chosen, stage.state)
            assert peak <= sizes[slot]
            assert grid.slots_of(preserved, up=True) <= up.first + row


@QUICK
@given(stage=stages(scale=10), beside=st.integers(-30, 30))
def test_plain_runs_are_the_fastest_that_fit(stage: Stage, beside: int) -> None:
    grid = Grid(300, 300, 300, 1, 1, 1)
    run = PlainRun(stage, grid, beside)
    for slot in range(0, 301, 20):
        room = slot - beside - stage.state
        least = [min((o.seconds for o in sub.forward if o.inter <= room), default=np.inf) for sub in stage.subs]
        assert run.seconds[slot] == sum(least)
        if np.isfinite(run.seconds[slot]):
            chosen = run.choose(slot)
            assert [o.seconds for o in chosen] == least and all(o.inter <= room for o in chosen)


@QUICK
@given(rows=st.lists(st.tuples(*[st.integers(0, 4)] * 4), min_size=1, max_size=30))
def test_undominated(rows: list[tuple[int, ...]]) -> None:
    kept = undominated(*np.array(rows).T)
    for i, row in enumerate(rows):
        beaten = any(all(a <= b for a, b in zip(other, row, strict=True)) and other != row for other in rows)
        assert (i in kept) == (not beaten and rows.index(row) == i)


@QUICK
@given(stage=stages())
def test_stairs_and_kept_records_lose_nothing(stage: Stage) -> None:
    for sub in stage.subs:
        steps = stairs(sub)
        assert all(a.inter < b.inter and a.seconds > b.seconds for a, b in zip(steps, steps[1:], strict=False))
        assert min(o.seconds for o in steps) == min(o.seconds for o in sub.forward)
        assert min(o.inter for o in steps) == min(o.inter for o in sub.forward)
        for o in sub.record:
            assert any(all(a <= b for a, b in zip(parts(k), parts(o), strict=True)) for k in kept_records(sub))
