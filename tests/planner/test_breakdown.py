"""What the bytes are adds up to what is alive, and what policies need is what their plans promise."""

import pytest

from foldfit.cost.devices import find_device
from foldfit.cost.resident import resident_bytes
from foldfit.planner.api import plan_problem
from foldfit.planner.breakdown import GRADIENTS, INPUTS, PARAMETERS, STATE, breakdown
from foldfit.planner.build import chain_of
from foldfit.planner.lengths import needs
from foldfit.planner.options import option_table
from foldfit.planner.simulate import simulate
from foldfit.problem import Problem, Stack

STACKS = (Stack("extra_msa", 2, 12), Stack("evoformer", 3, 6))


def problem(mode: str, memory: int = 2**40) -> Problem:
    return Problem(stacks=STACKS, n_res=10, mode=mode, memory=memory)  # type: ignore[arg-type]


@pytest.mark.parametrize(("mode", "policy"), [("infer", "auto"), ("train", "none"), ("train", "large"), ("train", "auto")])
def test_the_parts_are_all_that_is_alive(mode, policy):
    given = problem(mode, 165 * 2**20 if policy == "auto" and mode == "train" else 2**40)
    plan = plan_problem(given, policy=policy)
    table = option_table(given, find_device("cpu"))
    writes = {s.spec.name: [sub.spec.writes[0] for sub in s.sub_modules] for s in table.stacks}
    timeline, parts = breakdown(chain_of(table), plan.choices, plan.schedule, writes, *resident_bytes(given, 1))
    assert timeline.moments == simulate(chain_of(table), plan.choices, plan.schedule).moments
    assert timeline.peak == plan.promised.peak_bytes
    for moment, found in zip(timeline.moments, parts, strict=True):
        assert sum(found.values()) == moment.alive and all(size > 0 for size in found.values())
    names = {name for found in parts for name in found}
    assert PARAMETERS in names and (GRADIENTS in names) == (mode == "train")
    if mode == "infer":
        assert STATE in names and not any(name.startswith(("kept by", "versions")) for name in names)
    if policy == "large":
        inputs = [found.get(INPUTS, 0) for found in parts]
        assert inputs == sorted(inputs[: inputs.index(max(inputs))]) + inputs[inputs.index(max(inputs)) :] and max(inputs) > 0
    if policy == "none":
        assert {"versions of e", "versions of m", "versions of z", "kept by msa_transition"} <= names


def test_needs_are_what_plans_promise():
    given = problem("train")
    found = needs(given, find_device("cpu"), (0.5, 1))
    assert list(found) == [5, 10]
    for name in ("none", "small", "large", "chunk"):
        assert found[10][name] == plan_problem(given, policy=name).promised.peak_bytes > found[5][name]
    assert plan_problem(problem("train", found[10]["auto"])).promised.peak_bytes <= found[10]["auto"] <= min(found[10].values())
