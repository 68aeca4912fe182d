"""Promised against measured on the CPU, over a grid of plans: never above, and at least 0.90 of it."""

import pytest

from foldfit.cost.devices import find_device
from foldfit.planner.build import make_plan
from foldfit.planner.options import option_table
from foldfit.problem import Problem
from foldfit.runtime.job import job_of
from foldfit.runtime.measure import measure
from tests import small

TRUNKS = {
    "evoformer": (small.stack("evoformer", 4, 20),),
    "deep": (small.stack("evoformer", 9, 12),),
    "extra_msa": (small.stack("extra_msa", 2, 33),),
    "pairformer": (small.stack("pairformer", 3),),
}
POLICIES = ("none", "small", "large", "chunk")
LIMITS = (0.85, 0.5, 0.25)
"""Parts of the way from the least that any plan needs to what keeping everything takes."""


def problem(trunk: str, mode: str, precision: str, memory: int, **more) -> Problem:
    stored = more.pop("parameters", precision)
    n_res = 19 if trunk == "deep" else 26
    return Problem(
        stacks=TRUNKS[trunk], n_res=n_res, mode=mode, precision=precision, parameters=stored, dropout=mode == "train", memory=memory, **more
    )


def kept(plan) -> None:
    """The promise, by a run."""
    job = job_of(plan)
    measured = measure(job.model, job.inputs, plan, repeat=0, optimizer=job.optimizer).check()
    assert measured.peak_bytes >= 0.9 * plan.promised.peak_bytes
    assert plan.promised.peak_bytes <= plan.problem.memory


@pytest.mark.parametrize("policy", [*POLICIES, "auto"])
@pytest.mark.parametrize(
    "order", [("extra_msa", "evoformer", "pairformer"), ("pairformer", "extra_msa", "evoformer"), ("evoformer", "evoformer")]
)
def test_gradients_that_wait_for_the_first_stack(order, policy):
    """Also of tensors that only stacks in the middle have."""
    rows = {"evoformer": 64, "extra_msa": 4, "pairformer": 0}
    stacks = tuple(small.stack(name, 1, rows[name]) for name in order)
    of = Problem(stacks=stacks, n_res=16, mode="train", memory=2**40)
    kept(make_plan(option_table(of, find_device("cpu")), policy))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("mode", "precision"), [("train", "fp32"), ("train", "bf16"), ("infer", "fp32"), ("infer", "fp16")])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_named_policies(trunk, mode, precision, policy):
    kept(make_plan(option_table(problem(trunk, mode, precision, 2**40), find_device("cpu")), policy))


@pytest.mark.parametrize("part", LIMITS)
@pytest.mark.parametrize(("mode", "precision"), [("train", "fp32"), ("train", "bf16"), ("infer", "fp32")])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_auto_under_limits(trunk, mode, precision, part):
    device = find_device("cpu")
    policies = ("none", "chunk")
    most, some = (make_plan(option_table(problem(trunk, mode, precision, 2**40), device), p).promised.peak_bytes for p in policies)
    limit = int(some + part * (most - some))
    kept(make_plan(option_table(problem(trunk, mode, precision, limit), device)))


@pytest.mark.parametrize(
    "more",
    [
        dict(optimizer="adam"),
        dict(optimizer="sgd"),
        dict(parameters="fp32", optimizer="adam"),
        dict(gradients="accumulated"),
        dict(gradients="accumulated", parameters="fp32", optimizer="adam"),
        dict(batch=2),
        dict(batch=3, parameters="fp32"),
    ],
    ids=str,
)
@pytest.mark.parametrize("policy", ["small", "large"])
def test_optimizers_batches_and_cast_parameters(policy, more):
    kept(make_plan(option_table(problem("evoformer", "train", "bf16", 2**40, **more), find_device("cpu")), policy))


@pytest.mark.parametrize("policy", ["none", "chunk"])
def test_inference_into_its_inputs(policy):
    kept(make_plan(option_table(problem("evoformer", "infer", "fp32", 2**40, inputs="overwritten"), find_device("cpu")), policy))


@pytest.mark.parametrize("mode", ["train", "infer"])
@pytest.mark.parametrize("policy", ["none", "small", "large", "auto"])
def test_stacks_in_a_row(policy, mode):
    stacks = (*TRUNKS["extra_msa"], *TRUNKS["evoformer"])
    whole = Problem(stacks=stacks, n_res=26, mode=mode, dropout=mode == "train", memory=2**40)
    kept(make_plan(option_table(whole, find_device("cpu")), policy))
