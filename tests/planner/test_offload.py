"""Block inputs on the host, on random small chains: the promise holds, nothing is slower than without, no search finds better."""

import dataclasses
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldfit.cost.devices import find_device
from foldfit.errors import DoesNotFit
from foldfit.planner.build import chain_of
from foldfit.planner.options import option_table
from foldfit.planner.simulate import Simulator, simulate
from foldfit.planner.solvers import SOLVERS
from foldfit.planner.table import Chain, Forward, Record, Stage, Sub
from foldfit.problem import Problem, Stack
from tests.planner.chains import chains
from tests.planner.test_simulate import CHAIN as TWO
from tests.planner.test_simulate import CHOICES
from tests.planner.test_solvers import EXTRA, attempt

LINKS = st.sampled_from([0.05, 0.3, 1.0, 5.0, inf])
"""Bytes a second: a copy takes from far longer than any option to nothing."""
HOSTS = st.integers(1, 30)
QUICK = settings(max_examples=150, deadline=None)


def hosted(chain: Chain, host: int, link: float) -> Chain:
    return dataclasses.replace(chain, host_memory=host, host_link=link)


@QUICK
@given(chain=chains(), extra=EXTRA, host=HOSTS, link=LINKS)
def test_keeps_its_promise_and_is_never_slower_than_without(chain: Chain, extra: int, host: int, link: float) -> None:
    limit = chain.base_backward + extra
    without, found = attempt("chain", chain, limit), attempt("chain", hosted(chain, host, link), limit)
    if isinstance(found, DoesNotFit):
        assert found.need == without.need > limit
        return
    best = attempt("exhaustive", hosted(chain, host, link), limit)
    timeline = simulate(hosted(chain, host, link), found.choices, found.schedule)
    assert timeline.peak == found.peak <= limit
    assert timeline.host_bytes == found.host_bytes <= host
    assert timeline.seconds == found.seconds and timeline.exposed == found.exposed >= 0
    assert best.bound_seconds <= found.seconds and found.bound_seconds <= found.seconds
    assert found.seconds <= without.seconds


@QUICK
@given(chain=chains(options=2), extra=EXTRA)
def test_exact_when_every_byte_is_a_slot_and_copies_take_no_time(chain: Chain, extra: int) -> None:
    whole = hosted(chain, sum(stage.state for stage in chain.stages()), inf)
    limit = chain.base_backward + extra
    found = attempt("chain", whole, limit)
    if isinstance(found, DoesNotFit):
        assert found.need == attempt("exhaustive", chain, limit).need
    else:
        assert found.seconds == found.bound_seconds == attempt("exhaustive", whole, limit).seconds


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_running_a_block_takes_no_more_than_recording_it(precision: str) -> None:
    """So that a host makes no trunk fit that did not: every input can be made again from the first."""
    stacks = (Stack("extra_msa", 1, 64), Stack("evoformer", 1, 32), Stack("pairformer", 1))
    for stack in stacks:
        problem = Problem(stacks=(stack,), n_res=48, mode="train", precision=precision, memory=2**40)
        for stage, _ in chain_of(option_table(problem, find_device("cpu"))).runs:
            assert all(min(r.inter for r in sub.record) >= min(f.inter for f in sub.forward) for sub in stage.subs)


@settings(max_examples=40, deadline=None)
@given(chain=chains(scale=10_000), room=st.integers(0, 900_000), slots=st.sampled_from([5, 20, 60]), host=st.integers(1, 300_000))
def test_the_bound_is_below_the_optimum_when_sizes_are_rounded(chain: Chain, room: int, slots: int, host: int) -> None:
    limit, whole = chain.base_backward + room, hosted(chain, host, 1e5)
    best = attempt("exhaustive", whole, limit)
    try:
        found = SOLVERS["chain"](whole, limit, slots)
    except DoesNotFit as error:
        assert error.need > error.have
    else:
        assert found.peak <= limit and found.host_bytes <= host
        assert found.bound_seconds <= best.bound_seconds + 1e-9 <= found.seconds + 2e-9


def long_chain(blocks: int = 12, state: int = 100) -> Chain:
    """A record keeps far more than a block's input: without a host, inputs of most blocks fill the memory."""
    sub = Sub("only", state, (Forward(10, 1.0, "f"),), (Record(300, 300, 300, 1.0, 2.0, "keep"),), True)
    return Chain(((Stage("stage", state, (sub,)), blocks),), 0, 2 * state, state)


def test_hidden_copies_cost_nothing() -> None:
    chain, limit = long_chain(), 1100
    without, found = SOLVERS["chain"](chain, limit), SOLVERS["chain"](hosted(chain, 10**6, 200.0), limit)
    assert found.seconds < without.seconds
    assert found.exposed == 0 and found.host_bytes >= 5 * 100
    assert found.seconds == found.bound_seconds


@pytest.mark.parametrize("link", [5.0, 20.0, 50.0])
def test_a_slow_link_carries_fewer_inputs(link: float) -> None:
    chain, limit = long_chain(), 1100
    fast, slow = (SOLVERS["chain"](hosted(chain, 10**6, x), limit) for x in (200.0, link))
    assert slow.host_bytes <= fast.host_bytes and slow.seconds >= fast.seconds
    assert slow.seconds <= SOLVERS["chain"](chain, limit).seconds


@pytest.mark.parametrize("inputs", range(8))
def test_host_memory_is_a_second_limit(inputs: int) -> None:
    chain, limit = long_chain(), 1100
    less, more = (SOLVERS["chain"](hosted(chain, 100 * k + 99, 200.0), limit) for k in (inputs, inputs + 1))
    assert less.host_bytes <= 100 * inputs
    assert more.seconds <= less.seconds and more.bound_seconds <= less.bound_seconds
    assert less.gap < 0.03


def test_time_and_memory_of_copies_by_hand() -> None:
    """Two blocks: the input of the second goes away beside its run, comes back beside nothing."""
    chain = hosted(dataclasses.replace(TWO, runs=((TWO.runs[0][0], 3),)), 10, 4.0)
    steps = "run 0 a; check 1; offload 1; run 1 a; drop 1; record 2 b; end; backward 2; fetch 1; load 1; record 1 b; free 1; backward 1"
    s = Simulator(chain, CHOICES)
    for step in steps.split("; "):
        s.do(step)
    waits = {m.step: m.seconds for m in s.timeline.moments if m.between and m.seconds}
    assert waits == {"drop 1": 0.5, "load 1": 2.5}  # 10 bytes at 4 a second, of which 2 seconds beside `run 1`
    assert s.timeline.exposed == 3.0 and s.timeline.host_bytes == 10
    peak = {m.step: m.peak for m in s.timeline.moments}
    assert peak["drop 1"] == 100 + 10 + 10
    assert peak["fetch 1"] == 130 + 10  # the gradient is a block's own, counted where it runs


@pytest.mark.parametrize(
    "steps",
    [
        "check 0; offload 0",
        "run 0 a; offload 1",
        "run 0 a; check 1; drop 1",
        "run 0 a; check 1; fetch 1",
        "run 0 a; check 1; offload 1; drop 1",
        "run 0 a; check 1; offload 1; offload 1",
        "run 0 a; check 1; offload 1; run 1 a; fetch 1",
        "run 0 a; check 1; offload 1; run 1 a; drop 1; drop 1",
        "run 0 a; check 1; offload 1; run 1 a; drop 1; load 1",
        "run 0 a; check 1; offload 1; run 1 a; drop 1; fetch 1; fetch 1",
        "run 0 a; check 1; offload 1; free 1; fetch 1",
    ],
)
def test_illegal_steps(steps: str) -> None:
    with pytest.raises(ValueError, match="illegal schedule"):
        simulate(hosted(TWO, 100, 1.0), CHOICES, steps.split("; "))
    with pytest.raises(ValueError, match="without a host"):
        simulate(TWO, CHOICES, ["run 0 a", "check 1", "offload 1"])
