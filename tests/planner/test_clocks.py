"""Kernels launched one by one: a plan takes the larger of the host's and the device's sum, and its bound is one."""

from dataclasses import replace

import pytest

from foldfit.cost.devices import find_device
from foldfit.planner.build import chain_of, make_plan
from foldfit.planner.clocks import clocked, host_decides, two_clocks
from foldfit.planner.options import option_table
from foldfit.planner.simulate import simulate
from foldfit.problem import Problem, Stack

CARD = replace(find_device("H200"), costs="modelled")


def problem(n_seq: int, launch: str = "eager", mode: str = "train") -> Problem:
    return Problem(
        stacks=(Stack("evoformer", 6, n_seq),), n_res=128, mode=mode, precision="bf16", parameters="bf16", dropout=mode == "train",
        device="H200", device_type="cuda", memory=2**30, launch=launch,
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["train", "infer"])
@pytest.mark.parametrize("launch_seconds", [1e-7, 6e-6, 1e-4])
def test_a_plan_takes_the_larger_sum(launch_seconds, mode):
    table = option_table(problem(128, mode=mode), replace(CARD, launch_seconds=launch_seconds))
    plan = make_plan(table)
    sums = [simulate(chain_of(clocked(table, clock)), plan.choices, list(plan.schedule)).seconds for clock in (0, 1)]
    assert plan.promised.seconds == pytest.approx(max(sums))
    assert 0 <= plan.bound.gap < 0.02 and plan.digest == plan.sign()
    assert host_decides(table, plan) == (sums[1] > sums[0])
    assert launch_seconds == 6e-6 or host_decides(table, plan) == (launch_seconds == 1e-4)
    apart = make_plan(replace(table, clock=0)).promised.seconds  # each sub-module by its slower clock
    assert plan.promised.seconds <= apart * 1.000001


def test_graphs_and_processors_have_one_clock():
    assert not two_clocks(option_table(problem(8, "graph"), CARD))
    eager, graph = (make_plan(option_table(problem(8, launch), CARD)) for launch in ("eager", "graph"))
    assert not host_decides(option_table(problem(8, "graph"), CARD), graph)
    assert eager.promised.seconds > 2 * graph.promised.seconds  # sub-modules this small take less than their launches
