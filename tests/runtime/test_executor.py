"""The executor does what the plan says, and a plan never changes a number."""

import copy
import gc
from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.utils.parametrize

import foldfit
from foldfit.errors import BadInput, BrokenPromise, NotSupported
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


RECOMPUTING = {name: PLANS[name] for name in ("small", "large", "nested")} | {"whole": plan_of(small.keep(4), 100, False)}


@pytest.mark.parametrize("name", RECOMPUTING)
def test_autocast_around_a_plan_changes_nothing(name):
    plan = RECOMPUTING[name]
    expected = step(plan)
    with torch.autocast("cpu", torch.bfloat16):
        got = step(plan)
    assert all(torch.equal(expected[key], got[key]) for key in expected)


@pytest.mark.parametrize("changed", ["m", "z", "parameter", "out m"])
@pytest.mark.parametrize("name", RECOMPUTING)
def test_what_backward_reads_must_stay_as_it_was(name, changed):
    trunk = small.trunk(STACK).train()
    state = {k: x.detach() for k, x in inputs(trunk).items()}
    out = trunk.run(state, {}, RECOMPUTING[name])
    loss = sum(x.clone().square().mean() for x in out.values())
    with torch.no_grad():
        {"parameter": next(trunk.parameters()), "out m": out["m"]}.get(changed, state.get(changed)).mul_(2)
    if (name, changed) == ("large", "out m"):  # its blocks run again, and nothing of the last one is kept
        loss.backward()
        return
    with pytest.raises(BadInput, match="changed in place before its backward"):
        loss.backward()


def test_an_output_that_nothing_reads_may_change_in_place():
    trunk = small.trunk(STACK).train()
    out = trunk.run(inputs(trunk), {}, PLANS["small"])
    out["z"].mul_(2).sum().backward()


def test_every_sample_has_dropout_of_its_own():
    torch.manual_seed(0)
    trunk = small.trunk(STACK).train()
    state = {k: x.detach().expand(2, *x.shape).clone() for k, x in inputs(trunk).items()}
    several = {}
    for name in ("slices", "nested"):
        plan = plan_of(PLANS[name].schedule, 3, name == "nested", batch=2)
        torch.manual_seed(7)
        several[name] = trunk.run(state, {}, plan)
    first, second = several["slices"]["z"]
    assert (first - second).abs().max() > 0.1
    for key, x in several["nested"].items():
        torch.testing.assert_close(x, several["slices"][key])


def test_rows_in_another_order_are_refused_where_a_plan_promises():
    trunk = small.trunk(STACK).eval()
    plan = foldfit.plan(trunk, n_seq=11, n_res=N_RES, batch=2)
    state = {"m": torch.randn(2, 11, N_RES, 48), "z": torch.randn(2, N_RES, N_RES, 32)}
    with torch.no_grad():
        trunk.run(state, {}, plan)
        trunk.run(state | {"z": torch.randn(2, N_RES, N_RES, 64)[..., :32]}, {}, plan)  # with gaps
        for z in (
            state["z"].transpose(1, 2),
            state["z"][:1].expand(2, -1, -1, -1),
            state["z"].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        ):
            with pytest.raises(BadInput, match=r"z has strides .* hand over z.contiguous\(\)"):
                trunk.run(state | {"z": z}, {}, plan)
        trunk.run(state | {"z": state["z"].transpose(1, 2)}, {})  # the default plan promises nothing


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"z": torch.zeros(4)}, "needs the tensor z"), ({"m": None}, "needs the tensor m .* got nothing"),
        ({"m": [1]}, "needs the tensor m"), ({"mask": [1]}, "expected .* got"),
    ],
)  # fmt: skip
def test_what_is_no_tensor_of_the_state_is_a_line(change, words):
    trunk = small.trunk(STACK).eval()
    masks = {"m": change.pop("mask")} if "mask" in change else {}
    with torch.no_grad(), pytest.raises(BadInput, match=words):
        trunk.run({k: x.detach() for k, x in inputs(trunk).items()} | change, masks)


def test_a_copy_of_a_model_alone_agrees_with_nobody():
    trunk = copy.deepcopy(small.trunk(STACK).eval())
    with torch.no_grad():
        trunk.run(inputs(trunk), {})
    assert not trunk.agreed


def test_what_a_plan_cannot_do_is_said():
    trunk = small.trunk(STACK)
    torch.nn.utils.parametrize.register_parametrization(
        next(m for m in trunk.modules() if "up_w" in m._parameters), "up_w", torch.nn.Identity()
    )
    with pytest.raises(NotSupported, match="parametrized parameters"):
        trunk.run(inputs(trunk), {}, PLANS["slices"])
    trunk = small.trunk(STACK)
    loss = sum(x.sum() for x in trunk.run(inputs(trunk), {}, PLANS["small"]).values())
    grads = torch.autograd.grad(loss, [*trunk.parameters()], create_graph=True)
    with pytest.raises(RuntimeError, match="twice|does not require grad"):  # PyTorch's own words
        torch.autograd.grad(sum(g.sum() for g in grads), [*trunk.parameters()])


def test_gradients_that_accumulate_are_told_or_planned():
    trunk = small.trunk(STACK).eval()
    fresh, more = (foldfit.plan(trunk, n_seq=11, n_res=N_RES, mode="train", dropout=False, gradients=g) for g in ("fresh", "accumulated"))
    parameters = sum(p.nbytes for p in trunk.parameters())
    assert more.promised.peak_bytes == fresh.promised.peak_bytes + parameters
    expected: list[torch.Tensor] = []
    for plan in (fresh, more, more):
        sum(x.square().mean() for x in trunk.run(inputs(trunk), {}, plan).values()).backward()
        expected = expected or [p.grad.clone() for p in trunk.parameters()]
    assert all(torch.allclose(p.grad, 3 * g, rtol=1e-3, atol=1e-5) for p, g in zip(trunk.parameters(), expected, strict=True))
    with pytest.warns(UserWarning, match="gradients of an earlier step are there"):
        trunk.run(inputs(trunk), {}, fresh)
    with pytest.raises(BadInput, match="an inference has no gradients"):
        foldfit.plan(trunk, n_seq=11, n_res=N_RES, gradients="accumulated")


@pytest.mark.parametrize("plan", ["plan.json", {}])
def test_what_is_no_plan_is_named(plan):
    trunk = small.trunk(small.stack("pairformer"))
    with torch.no_grad(), pytest.raises(BadInput, match="plan: expected one of foldfit.plan or Plan.load, got (str|dict)"):
        trunk.run({"s": torch.zeros(6, 48), "z": torch.zeros(6, 6, 32)}, {}, plan)
