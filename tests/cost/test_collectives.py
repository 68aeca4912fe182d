"""Seconds of collectives: what any model of them must do, and that measured ones stand in its place."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldfit.cost.collectives import COLLECTIVES, all_reduce, are_measured, gather, modelled, seconds_of
from foldfit.cost.database import Costs
from foldfit.cost.devices import find_device
from foldfit.cost.links import Collective
from foldfit.planner.api import plan_problem
from foldfit.problem import Problem, Stack

DEVICE = replace(find_device("H200"), costs="modelled")


@pytest.mark.parametrize("name", COLLECTIVES)
@given(ranks=st.integers(2, 2048), size=st.integers(0, 2**40))
def test_more_bytes_take_longer_and_none_are_free(name, ranks, size):
    assert 0 < seconds_of(name, DEVICE, ranks, size) < seconds_of(name, DEVICE, ranks, 2 * size + 1)


@pytest.mark.parametrize("name", COLLECTIVES)
@given(size=st.integers(2**20, 2**36))
def test_another_host_is_further_away(name, size):
    assert seconds_of(name, DEVICE, 16, size) > seconds_of(name, DEVICE, 8, size)


def test_within_a_host_only_what_others_have_travels():
    size = 2**30
    assert gather(DEVICE, 4, size, 64) == pytest.approx(3 / 4 * size / DEVICE.link, rel=0.05)
    assert gather(DEVICE, 4, size, 66) == gather(DEVICE, 4, size, 64)
    cpu = find_device("cpu")
    assert gather(cpu, 4, size, 66) > gather(cpu, 4, size, 64)  # one rank after the other
    assert all_reduce(DEVICE, 1, size) == 0


@pytest.mark.parametrize(
    ("name", "ranks", "size", "seconds"),
    [("all_to_all", 4, 2**30, 2.40e-3), ("all_gather", 4, 2**28, 0.661e-3), ("all_reduce", 4, 2**30, 4.54e-3),
     ("all_to_all", 2, 2**30, 1.62e-3), ("all_to_all", 4, 2**20, 0.041e-3), ("all_gather", 4, 2**26, 0.192e-3)],
)  # fmt: skip
def test_the_model_is_near_a_host_of_h200(name, ranks, size, seconds):
    assert modelled(name, DEVICE, ranks, size) == pytest.approx(seconds, rel=0.15)


@pytest.fixture
def slow(tmp_path):
    """Links twice as slow as the model says between 2 ranks, three times between 4."""
    known = tuple(
        Collective(name, ranks, size, factor * modelled(name, DEVICE, ranks, size))
        for name in COLLECTIVES for ranks, factor in ((2, 2.0), (4, 3.0)) for size in (2**20, 2**25, 2**30)
    )  # fmt: skip
    Costs(device="H200", versions={}, date="2026-11-26", collectives=known).save(tmp_path / "c.json")
    return replace(DEVICE, costs=str(tmp_path / "c.json"))


@pytest.mark.parametrize(("ranks", "factor"), [(2, 2), (4, 3), (3, 3), (64, 3)])
def test_measured_ones_stand_in_its_place(slow, ranks, factor):
    for name in COLLECTIVES:
        for size in (1000, 2**20, 2**23, 2**30, 2**34):
            assert seconds_of(name, slow, ranks, size) == pytest.approx(factor * modelled(name, DEVICE, ranks, size))
    assert are_measured(slow, 2) and not are_measured(slow, 3) and not are_measured(DEVICE, 2)


def test_a_plan_waits_as_long_as_was_measured(slow):
    problem = Problem(stacks=(Stack("evoformer", 2, 64),), n_res=128, device="H200", device_type="cuda", precision="bf16", memory=2**35)
    problem = msgspec.structs.replace(problem, world=4, axial=4)
    plain, plan = (plan_problem(problem, device, "none") for device in (DEVICE, slow))
    assert plan.promised.exposed > 2 * plain.promised.exposed
