"""Defects seen in other planners, each as a case that must not happen here. (A solver's 1 that is 0.9999999 is in
test_certificate.py.)"""

import pytest

from foldfit.errors import DoesNotFit
from foldfit.planner import chain as chain_solver
from foldfit.planner import exhaustive
from foldfit.planner.grid import make_grid
from foldfit.planner.prune import kept_records
from foldfit.planner.table import Chain, Record, Stage, Sub
from tests.planner.chains import one_sub


@pytest.mark.parametrize("slots", [10, 33, 100, 500])
def test_sizes_rounded_to_nearest_exceed_the_budget(slots: int) -> None:
    # 48 blocks whose sizes are just above a slot: rounded to nearest they would seem to fit.
    room = 100_000
    unit = room // slots
    chain = one_sub((unit // 5, unit // 5, unit // 5, 1.0), (1, 0, unit // 5, 2.0), blocks=48, state=unit // 10 + 3)
    limit = chain.base_backward + room
    found = chain_solver.solve(chain, limit, slots)
    assert found.peak <= limit


def test_pruning_on_total_memory_and_time_loses_the_optimum() -> None:
    # (inter, saved, back, seconds): the second has more memory in total and is slower, yet four blocks fit only with it.
    fat, thin = (7, 7, 7, 1.0), (10, 0, 10, 2.0)
    chain = one_sub(fat, thin, blocks=4, forward=1000)
    assert len(kept_records(chain.runs[0][0].subs[0])) == 2
    limit = chain.base_backward + 16
    assert chain_solver.solve(chain, limit).seconds == exhaustive.solve(chain, limit).seconds
    with pytest.raises(DoesNotFit):
        chain_solver.solve(one_sub(fat, blocks=4, forward=1000), limit)


def test_pruning_on_running_maxima_makes_what_fits_seem_not_to() -> None:
    # The first sub-module's thin option has the larger intermediate: it is needed for the second to fit at all.
    first = Sub("first", 0, (), (Record(6, 6, 6, 1.0, 1.0, "fat"), Record(9, 0, 9, 1.5, 1.0, "thin")))
    second = Sub("second", 0, (), (Record(5, 0, 5, 1.0, 1.0, "only"),), True)
    chain = Chain(((Stage("stage", 1, (first, second)), 1),), 0, 2, 1)
    assert chain_solver.solve(chain, 12).choices == {"a": ("thin", "only")}


@pytest.mark.parametrize("record", [(5, 3, 4, 1.0), (3, 3, 9, 1.0), (2, 0, 1, 1.0), (9, 1, 2, 1.0)])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_one_formula_says_what_fits(record: tuple[int, int, int, float], blocks: int) -> None:
    # The least need named in the error is exactly where every solver begins to find a plan.
    chain = one_sub(record, blocks=blocks, state=2)
    with pytest.raises(DoesNotFit) as error:
        chain_solver.solve(chain, chain.base_backward)
    need = error.value.need
    for solve in (chain_solver.solve, exhaustive.solve):
        assert solve(chain, need).peak == need
        with pytest.raises(DoesNotFit):
            solve(chain, need - 1)


def test_a_larger_budget_never_breaks_the_limit_nor_costs_time() -> None:
    # A budget on the sum of saved activations made the measured peak rise as the budget fell.
    chain = one_sub((900, 700, 950, 1.0), (500, 80, 800, 1.2), (300, 0, 450, 1.5), blocks=24, forward=200, state=50, written=50)
    seconds = []
    for room in range(1_000, 24_000, 500):
        limit = chain.base_backward + room
        found = chain_solver.solve(chain, limit, 200)
        assert found.peak <= limit
        seconds.append((found.bound_seconds, found.seconds))
    for (_, before), (bound, _) in zip(seconds, seconds[1:], strict=False):
        assert bound <= before + 1e-9


@pytest.mark.parametrize("top", [501, 999, 10**6, 140 * 10**9 + 1])
def test_slots_never_stand_for_more_than_their_bytes(top: int) -> None:
    chain = one_sub((top // 40, top // 50, top // 45, 1.0), blocks=48, state=top // 1000 + 7)
    grid = make_grid(chain, top)
    sizes = grid.bytes()
    assert sizes[grid.slots] == top and sizes[0] >= 0
    for size in (1, top // 3, chain.runs[0][0].state):
        up, down = int(grid.slots_of(size, up=True)), int(grid.slots_of(size, up=False))
        step = grid.ratio * grid.fine
        assert down * step <= size * grid.ticks <= up * step and up - down <= 1
