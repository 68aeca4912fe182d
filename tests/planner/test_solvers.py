"""Every solver on random small chains: what it promises holds, and none beats the exhaustive search."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldfit.errors import DoesNotFit, NotSupported
from foldfit.planner.simulate import simulate
from foldfit.planner.solution import Solution
from foldfit.planner.solvers import SOLVERS
from foldfit.planner.table import Chain
from tests.planner.chains import chains, one_sub

EXTRA = st.integers(0, 90)
QUICK = settings(max_examples=60, deadline=None)


def attempt(name: str, chain: Chain, limit: int) -> Solution | DoesNotFit:
    try:
        return SOLVERS[name](chain, limit)
    except DoesNotFit as error:
        return error


@pytest.mark.parametrize("name", SOLVERS)
@QUICK
@given(chain=chains(), extra=EXTRA)
def test_keeps_its_promise(name: str, chain: Chain, extra: int) -> None:
    limit = chain.base_backward + extra
    best, found = attempt("exhaustive", chain, limit), attempt(name, chain, limit)
    if isinstance(found, DoesNotFit):
        assert found.need > limit == found.have and found.where
        assert attempt(name, chain, found.need).peak <= found.need
        return
    timeline = simulate(chain, found.choices, found.schedule)
    assert timeline.peak == found.peak <= limit
    assert timeline.seconds == found.seconds >= best.seconds >= found.bound_seconds
    assert found.gap >= 0


@pytest.mark.parametrize("name", SOLVERS)
@QUICK
@given(chain=chains(options=2), extra=EXTRA, more=st.integers(1, 40))
def test_more_memory_never_costs_time(name: str, chain: Chain, extra: int, more: int) -> None:
    limit = chain.base_backward + extra
    small, large = attempt(name, chain, limit), attempt(name, chain, limit + more)
    if isinstance(small, Solution):
        assert small.peak <= limit
        assert large.seconds <= small.seconds
        assert large.bound_seconds <= small.bound_seconds


@settings(max_examples=150, deadline=None)
@given(chain=chains(), extra=EXTRA)
def test_chain_is_exact_when_every_byte_is_a_slot(chain: Chain, extra: int) -> None:
    limit = chain.base_backward + extra
    best, found = attempt("exhaustive", chain, limit), attempt("chain", chain, limit)
    if isinstance(best, DoesNotFit):
        assert (found.need, found.have) == (best.need, limit)
    else:
        assert found.seconds == found.bound_seconds == best.seconds


@settings(max_examples=100, deadline=None)
@given(chain=chains(scale=10_000), room=st.integers(0, 900_000), slots=st.sampled_from([5, 20, 60]))
def test_bound_and_plan_enclose_the_optimum_when_sizes_are_rounded(chain: Chain, room: int, slots: int) -> None:
    limit = chain.base_backward + room
    best = attempt("exhaustive", chain, limit)
    for name in ("chain", "study"):
        try:
            found = SOLVERS[name](chain, limit, slots)
        except DoesNotFit as error:
            assert error.need > limit
            assert isinstance(best, Solution) or error.need >= best.need
        else:
            assert found.peak <= limit
            assert found.bound_seconds <= best.seconds + 1e-9
            assert best.seconds <= found.seconds + 1e-9


@QUICK
@given(chain=chains(options=2), extra=EXTRA)
def test_a_run_is_the_same_as_its_blocks_one_by_one(chain: Chain, extra: int) -> None:
    limit = chain.base_backward + extra
    apart = []
    for i, (stage, count) in enumerate(chain.runs):
        # Copies, so that only their contents say that they are equal.
        apart += [(dataclasses.replace(stage, entry=stage.entry if i and not k else None), 1) for k in range(count)]
    found, same = attempt("chain", chain, limit), attempt("chain", dataclasses.replace(chain, runs=tuple(apart)), limit)
    assert type(found) is type(same)
    if isinstance(found, Solution):
        assert (found.seconds, found.bound_seconds) == (same.seconds, same.bound_seconds)
    else:
        assert found.need == same.need


@QUICK
@given(chain=chains(options=2, scale=3), extra=st.integers(0, 200))
def test_frontier_agrees_with_solving_at_its_limits(chain: Chain, extra: int) -> None:
    found = attempt("chain", chain, chain.base_backward + extra)
    if isinstance(found, DoesNotFit):
        return
    curve = found.frontier
    assert curve is not None
    assert (curve.seconds[1:] <= curve.seconds[:-1]).all() and (curve.bound <= curve.seconds).all()
    for k in range(0, len(curve.limits), max(1, len(curve.limits) // 5)):
        at = attempt("chain", chain, int(curve.limits[k]))
        seconds = at.seconds if isinstance(at, Solution) else float("inf")
        assert (float(curve.seconds[k]), float(curve.bound[k])) == (seconds, seconds)
        assert curve.at(int(curve.limits[k])) == (seconds, seconds)


def test_solvers_refuse_what_they_cannot_do() -> None:
    chain = one_sub((1, 1, 1, 1.0), blocks=2)
    with pytest.raises(ValueError, match="slots"):
        SOLVERS["chain"](chain, 100, 0)
    with pytest.raises(ValueError, match="slots"):
        SOLVERS["study"](chain, 100, 0)
    with pytest.raises(NotSupported, match="at most 4 blocks"):
        SOLVERS["exhaustive"](one_sub((1, 1, 1, 1.0), blocks=5), 100)
    nothing = dataclasses.replace(chain.runs[0][0].subs[0], record=())
    stage = dataclasses.replace(chain.runs[0][0], subs=(nothing,))
    for name in ("chain", "study"):
        with pytest.raises(ValueError, match="cannot be trained"):
            SOLVERS[name](dataclasses.replace(chain, runs=((stage, 1),)), 100)
