"""The executor does what the plan says, and a plan never changes a number."""

import gc
from collections import Counter
from dataclasses import replace

import pytest
import torch

from foldfit.errors import BadInput, BrokenPromise
from foldfit.ops import KERNELS
from foldfit.ops.reference import REFERENCE
from foldfit.ops.unread import is_unread
from foldfit.plans import Choice
from foldfit.runtime.executor import Executor
from foldfit.runtime.measure import Measured, Step
from foldfit.runtime.meter import TensorMeter
from foldfit.runtime.trunk import Trunk
from tests import small

STACK = small.stack("evoformer", 4, 11)
N_RES = 13


def choice(rows: int, recompute: bool) -> tuple[Choice, ...]:
    return tuple(Choice("reference", rows, rows, recompute) for _ in range(9))


def plan_of(schedule, rows: int = 5, recompute: bool = False, **problem):
    problem = {"stacks": (STACK,), "n_res": N_RES, "mode": "train", "dropout": True, **problem}
    return small.unlimited(schedule, {"b": choice(rows, recompute), "r": choice(4, False)}, **problem)


def inputs(trunk: Trunk) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = {"m": (11, N_RES, 48), "z": (N_RES, N_RES, 32)}
    return {name: torch.randn(s, generator=generator).requires_grad_() for name, s in shape.items()}


def step(plan) -> dict[str, torch.Tensor]:
    """Loss and all gradients of one training step, dropout on."""
    torch.manual_seed(0)
    trunk = small.trunk(STACK).train()
    state = inputs(trunk)
    masks = {"m": (torch.rand(11, N_RES) > 0.2).float(), "z": (torch.rand(N_RES, N_RES) > 0.2).float()}
    torch.manual_seed(7)
    out = trunk.run(state, masks, plan)
    loss = out["m"].square().mean() + out["z"].square().mean()
    loss.backward()
    grads = {name: x.grad for name, x in state.items()} | {name: p.grad for name, p in trunk.named_parameters()}
    return {"loss": loss.detach(), **grads}


PLANS = {
    "small": plan_of(small.keep(4), 100, True),
    "slices": plan_of(small.keep(4), 3, False),
    "rows": plan_of(small.keep(4), 1, True),
    "large": plan_of(small.large(4)),
    "nested": plan_of(small.nested(4), 6, True),
}


@pytest.mark.parametrize("name", PLANS)
def test_two_plans_of_one_problem_give_the_same_losses_and_gradients(name):
    expected, got = step(plan_of(small.keep(4), 100)), step(PLANS[name])
    scale = max(float(x.abs().max()) for x in expected.values())
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=1e-4, atol=1e-6 * scale, msg=lambda text, key=key: f"{key}: {text}")


class Poisoned(torch.autograd.Function):
    """A transition that keeps its inputs alone: NaN where nobody reads it."""

    @staticmethod
    def forward(ctx, *given):
        ctx.save_for_backward(*given)
        return torch.full_like(given[0], torch.nan) if is_unread() else REFERENCE.relu_mlp(*given)

    @staticmethod
    def backward(ctx, grad):
        given = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        with torch.enable_grad():
            return torch.autograd.grad(REFERENCE.relu_mlp(*given), given, grad)


@pytest.mark.parametrize("recompute", [False, True])
def test_an_update_for_its_graph_alone_need_not_be_computed(monkeypatch, recompute):
    plan, seen = plan_of(small.keep(4), 5, recompute), []

    def relu_mlp(*given):
        seen.append(is_unread())
        return Poisoned.apply(*given)

    expected = step(plan)
    monkeypatch.setitem(KERNELS, "reference", replace(REFERENCE, relu_mlp=relu_mlp))
    for name, x in step(plan).items():
        torch.testing.assert_close(x, expected[name], rtol=0, atol=0, msg=name)
    assert sum(seen) == (len(seen) // 2 if recompute else 0) and not is_unread()


def test_dropout_is_another_one_in_every_step():
    torch.manual_seed(0)
    trunk = small.trunk(STACK).train()
    state = inputs(trunk)
    plan = plan_of(small.keep(4), 100)
    assert not torch.equal(trunk.run(state, {}, plan)["z"], trunk.run(state, {}, plan)["z"])


@pytest.mark.parametrize("name", PLANS)
def test_the_sequence_executed_is_the_plans(name, monkeypatch):
    plan, seen = PLANS[name], []
    original = Executor.do
    monkeypatch.setattr(Executor, "do", lambda self, s: (original(self, s), seen.append(s))[0])
    step(plan)
    assert [*seen[: plan.schedule.index("end")], "end", *seen[plan.schedule.index("end") :]] == list(plan.schedule)


def test_every_sub_module_of_every_step_runs_once():
    plan, ran = PLANS["nested"], Counter()
    trunk = small.trunk(STACK).train()
    state = inputs(trunk)
    out = trunk.run(state, {}, plan, watch=lambda s, sub: ran.update([s]))
    (out["m"].sum() + out["z"].sum()).backward()
    expected = Counter(" ".join(s.split()[:2]) for s in plan.schedule if s.split()[0] in ("run", "record", "backward"))
    assert ran == Counter({s: 9 * n for s, n in expected.items()})


def test_no_reference_cycle_keeps_tensors_alive():
    trunk = small.trunk(STACK).train()
    plan = PLANS["nested"]
    gc.collect()
    gc.disable()
    try:
        with TensorMeter() as meter:
            state = inputs(trunk)
            out = trunk.run(state, {}, plan)
            (out["m"].sum() + out["z"].sum()).backward()
            trunk.zero_grad(set_to_none=True)
            del state, out
        assert meter.now == 0
    finally:
        gc.enable()


def test_an_inference_may_write_into_its_inputs_and_otherwise_does_not():
    trunk = small.trunk(STACK).eval()
    state = {name: x.detach() for name, x in inputs(trunk).items()}
    before = {name: x.clone() for name, x in state.items()}
    schedule = [*(f"run {i} r" for i in range(4)), "end"]
    with torch.no_grad():
        kept = trunk.run(state, {}, plan_of(schedule, mode="infer", dropout=False))
        assert all(torch.equal(state[name], before[name]) for name in state)
        trunk.run(state, {}, plan_of(schedule, mode="infer", dropout=False, inputs="overwritten"))
    assert all(torch.equal(state[name], kept[name]) for name in state)


def test_batch_dimensions_lead():
    trunk = small.trunk(STACK).eval()
    generator = torch.Generator().manual_seed(2)
    state = {"m": torch.randn(2, 3, 11, N_RES, 48, generator=generator), "z": torch.randn(2, 3, N_RES, N_RES, 32, generator=generator)}
    schedule = [*(f"run {i} r" for i in range(4)), "end"]
    with torch.no_grad():
        whole = trunk.run(state, {}, plan_of(schedule, mode="infer", dropout=False, batch=6))
        one = trunk.run({n: x[1, 2] for n, x in state.items()}, {}, plan_of(schedule, mode="infer", dropout=False))
    assert whole["m"].shape == state["m"].shape
    torch.testing.assert_close(whole["z"][1, 2], one["z"])


def test_stacks_in_a_row_are_the_stacks_one_by_one():
    extra, evoformer = small.stack("extra_msa", 2, 9), small.stack("evoformer", 2, 11)
    trunk = small.trunk(extra, evoformer).eval()
    e, m, z = torch.randn(9, N_RES, 24), torch.randn(11, N_RES, 48), torch.randn(N_RES, N_RES, 32)
    first, second = small.trunk(extra).eval(), small.trunk(evoformer).eval()
    first.blocks, second.blocks = trunk.blocks[:2], trunk.blocks[2:]
    with torch.no_grad():
        got = trunk.run({"e": e, "m": m, "z": z}, {})
        expected = second.run({"m": m, "z": first.run({"e": e, "z": z}, {})["z"]}, {})
    assert set(got) == {"m", "z"}
    torch.testing.assert_close(got["z"], expected["z"])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (dict(n_res=14), BadInput, "plan for these sizes"),
        (dict(precision="bf16"), BadInput, "bf16"),
        (dict(stacks=(small.stack("evoformer", 5, 11),)), BadInput, "plan for this model"),
        (dict(world=2, axial=2), BadInput, "2 ranks"),
        (dict(batch=2), BadInput, "batch of 2"),
        (dict(mode="infer", dropout=False), BadInput, "no_grad"),
    ],
)
def test_a_plan_for_something_else_is_refused_before_anything_runs(change, error, words):
    trunk = small.trunk(STACK)
    with pytest.raises(error, match=words):
        trunk.run(inputs(trunk), {}, plan_of(small.keep(4), **change))


def test_a_second_backward_is_refused():
    trunk = small.trunk(STACK)
    out = trunk.run(inputs(trunk), {}, plan_of(small.keep(4)))
    out["z"].sum().backward(retain_graph=True)
    with pytest.raises(BadInput, match="run forward again"):
        out["z"].sum().backward()


def test_a_broken_promise_names_the_sub_module():
    measured = Measured(
        peak_bytes=11, seconds=0, spread=0, repeat=0, promised_peak_bytes=10, promised_seconds=0, activation_bytes=0, device="cpu",
        versions={}, steps=(Step("run 0", "msa_transition", 11), Step("run 0", "pair_transition", 3)),
    )  # fmt: skip
    with pytest.raises(BrokenPromise, match="msa_transition of step `run 0`"):
        measured.check()
