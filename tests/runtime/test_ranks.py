"""Several ranks that share a sample compute what one does: outputs and all gradients, under any plan."""

import copy
import warnings

import msgspec
import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import foldfit.problem
from foldfit.errors import BadInput
from foldfit.plans import Choice, Plan
from foldfit.runtime.ranks import Ranks, bounds, packed, pairs, unpack
from foldfit.runtime.shards import shard, unshard
from foldfit.runtime.trunk import Trunk
from tests import small
from tests.runtime.spawned import on_ranks

STACKS = {"evoformer": 5, "extra_msa": 7, "pairformer": 0}
N_RES = 6


def layouts(trunk: Trunk) -> list[str]:
    """Of every sub-module: the axes that it maps, those of other tensors as they were."""
    at = dict.fromkeys(trunk.specs[0].state, 0)
    out = []
    for sub in trunk.specs[0].sub_modules:
        if "transition" not in sub.kind:
            at |= dict((*sub.reads, sub.writes, *((sub.shares,) if sub.shares else ())))
        out.append(" ".join(f"{name}{axis}" for name, axis in at.items()))
    return out


def plan_of(trunk: Trunk, schedule: list[str], rows: int, recompute: bool, size: int, pieces: int = 0, **problem) -> Plan:
    """For `size` ranks; choice b is recorded, r is run. `pieces`: rows of those of what is shared, where it can come so."""
    named = {}
    for name, n, again in (("b", rows, recompute), ("r", 2, False)):
        named[name] = tuple(
            Choice("reference", n + i % 2, n, again, layout, piece_rows=pieces if sub.prepared else 0)
            if size > 1
            else Choice("reference", n, n, again)
            for i, (layout, sub) in enumerate(zip(layouts(trunk), trunk.specs[0].sub_modules, strict=True))
        )
    (name,) = (name for name in STACKS if name in trunk.specs[0].name)
    problem = {"stacks": (small.stack(name, 2, STACKS[name]),), "n_res": N_RES, "mode": "train", **problem}
    return small.unlimited(schedule, named, world=size, axial=size, **problem)


PLANS = {
    "whole, kept": lambda t, n, **p: plan_of(t, small.keep(2), 100, False, n, **p),
    "one row, recomputed": lambda t, n, **p: plan_of(t, small.keep(2), 1, True, n, **p),
    "blocks recomputed": lambda t, n, **p: plan_of(t, small.large(2), 2, False, n, **p),
    "nested": lambda t, n, **p: plan_of(t, small.nested(2), 3, True, n, **p),
    "pieces": lambda t, n, **p: plan_of(t, small.nested(2), 2, True, n, 2, **p),
    "pieces of one row": lambda t, n, **p: plan_of(t, small.large(2), 100, True, n, 1, **p),
}
CASES = [
    ("evoformer", "whole, kept", {}),
    ("evoformer", "one row, recomputed", {"dropout": True}),
    ("evoformer", "blocks recomputed", {"batch": 2}),
    ("evoformer", "nested", {"dropout": True, "n_res": 3}),
    ("evoformer", "one row, recomputed", {"n_res": 1, "stacks": (small.stack("evoformer", 2, 1),)}),
    ("evoformer", "pieces", {"dropout": True, "n_res": 7}),
    ("evoformer", "pieces of one row", {"batch": 2, "n_res": 3}),
    ("extra_msa", "nested", {"n_res": 7}),
    ("pairformer", "blocks recomputed", {}),
    ("pairformer", "whole, kept", {"n_res": 1}),
]


def whole_inputs(trunk: Trunk, plan: Plan) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """State, masks, and the gradient of each output."""
    spec, problem = trunk.specs[0], plan.problem
    numbers = {"n_seq": problem.stacks[0].rows, "n_extra": problem.stacks[0].rows, "n_res": problem.n_res, **spec.widths}
    shapes = {name: (problem.batch, *(numbers[d] for d in dims)) for name, dims in spec.state.items()}
    generator = torch.Generator().manual_seed(5)
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    masks = {name: (torch.rand(shape[:-1], generator=generator) > 0.2).float() for name, shape in shapes.items()}
    return state, masks, {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def step(name: str, plan_name: str, problem: dict, size: int, group=None) -> dict[str, torch.Tensor]:
    """Outputs and all gradients, whole, of a training step on `size` ranks."""
    torch.manual_seed(0)
    trunk = small.trunk(small.stack(name, 2)).train(problem.get("dropout", False))
    trunk.over(group)
    plan = PLANS[plan_name](trunk, size, **problem)
    state, masks, weights = whole_inputs(trunk, plan)
    state = {k: x.requires_grad_() for k, x in state.items()}
    torch.manual_seed(7 + (dist.get_rank() if size > 1 else 0))  # the seed of dropout is the first rank's
    parts = {k: shard(x, group, dim=1) if size > 1 else x for k, x in state.items()}
    out = trunk.run(parts, masks, plan)
    out = {k: unshard(x, group, dim=1) if size > 1 else x for k, x in out.items()}
    sum((x * weights[k]).sum() for k, x in out.items()).backward()
    grads = {f"d {k}": x.grad for k, x in state.items()} | {f"d {k}": p.grad for k, p in trunk.named_parameters()}
    return {k: x.detach() for k, x in out.items()} | grads


def same_as_one(rank: int, size: int) -> None:
    torch.use_deterministic_algorithms(True)
    for name, plan_name, problem in CASES:
        expected, got = step(name, plan_name, problem, 1), step(name, plan_name, problem, size, dist.group.WORLD)
        scale = max(float(x.abs().max()) for key, x in expected.items() if key.startswith("d "))
        for key, value in expected.items():
            # A gradient that is zero but for rounding (a constant added to all keys' bias) is compared with the largest one.
            error = float((got[key] - value).norm() / (value.norm() + 0.1 * scale))
            assert error < 1e-5, f"{name}, {plan_name}, {problem}, rank {rank} of {size}, {key}: {error}"


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_compute_what_one_does(size):
    on_ranks(size, same_as_one, size)


def wrong(rank: int) -> None:
    group = dist.group.WORLD
    trunk = small.trunk(small.stack("evoformer", 2))
    plan = PLANS["whole, kept"](trunk, 2, mode="infer")
    state, masks, _ = whole_inputs(trunk, plan)
    parts = {k: shard(x, group, dim=1) for k, x in state.items()}
    with torch.no_grad():
        with pytest.raises(BadInput, match="shares a sample among 2 ranks, the model among 1.*torchrun"):
            trunk.run(parts, masks, plan)
        trunk.over(group)
        with pytest.raises(BadInput, match=rf"rank {rank}'s rows of \[1, 5, 6, 48\]"):
            trunk.run(state, masks, plan)
        with pytest.raises(BadInput, match="parameters is .* on rank 0"):  # each rank drew its own
            torch.manual_seed(rank)
            small_trunk = small.trunk(small.stack("evoformer", 2)).over(group)
            small_trunk.run(parts, masks, plan)
        torch.manual_seed(0)
        trunk = small.trunk(small.stack("evoformer", 2)).over(group)
        with pytest.raises(BadInput, match="masks is"):
            trunk.run(parts, {**masks, "z": masks["z"] if rank else torch.ones_like(masks["z"])}, plan)
        other = msgspec.structs.replace(plan, policy=f"of rank {rank}").signed()
        with pytest.raises(BadInput, match="plan is"):
            trunk.run(parts, masks, other)
        expected, got = trunk.run(parts, masks, plan), copy.deepcopy(trunk).run(parts, masks, plan)
        assert all(torch.equal(expected[k], got[k]) for k in expected)


def test_ranks_that_disagree_are_told():
    on_ranks(2, wrong)


def replicas(rank: int) -> None:
    """Two samples on two ranks each: averaged over the world by us, and by DistributedDataParallel or FSDP2 around a shared trunk."""
    mesh = dist.init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "axial"))
    axial, data = mesh["axial"].get_group(), mesh["data"].get_group()

    def grads(sample: int, group, size: int, wrap) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        trunk = small.trunk(small.stack("evoformer", 2)).over(group, dist.group.WORLD if wrap == "world" else None)
        plan = PLANS["whole, kept"](trunk, size)
        state, masks, weights = whole_inputs(trunk, plan)
        state = {k: x + sample for k, x in state.items()}
        if size > 1:
            state, weights = ({k: shard(x, group, dim=1) for k, x in some.items()} for some in (state, weights))
        model: torch.nn.Module = Wrapped(trunk)
        if wrap == "ddp":
            model = DistributedDataParallel(model, process_group=data)
        if wrap == "fsdp":
            warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # which nobody changes in place here
            fully_shard(model, mesh=mesh["data"])
        out = model(state, masks, plan)
        sum((out[k] * weights[k]).sum() for k in out).backward()
        return {name: p.grad.full_tensor() if wrap == "fsdp" else p.grad for name, p in trunk.named_parameters()}

    one, other = (grads(sample, None, 1, "") for sample in (0, 1))
    for wrap in ("world", "ddp", "fsdp"):
        got = grads(rank // 2, axial, 2, wrap)
        for name, g in got.items():
            torch.testing.assert_close(g, (one[name] + other[name]) / 2, rtol=1e-4, atol=1e-3, msg=lambda text, n=name: f"{n}: {text}")


class Wrapped(torch.nn.Module):
    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, state, masks, plan):
        return self.trunk.run(state, masks, plan)


def test_replicas_average_over_samples():
    on_ranks(4, replicas)


def test_rows_of_all_ranks_are_all_rows():
    for total in range(20):
        for size in range(1, 9):
            spans = bounds(total, size)
            assert [i for a, b in spans for i in range(a, b)] == list(range(total))
            lengths = [b - a for a, b in spans]
            assert max(lengths) - min(lengths) <= 1 and lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("ends", [(3, 7), (2, 4, 6, 8), (2, 5, 8), (7,), (0, 4, 4)])
@pytest.mark.parametrize("channels", [1, 4, 6])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_is_relaid_is_the_same_to_the_byte(dtype, channels, ends):
    """In words of 8 bytes or not, as one copy or several, from anywhere."""
    x = torch.randn(5, ends[-1], channels + 1).to(dtype)[..., 1:]
    x[0, 0, 0], x[1, 2, 0] = torch.nan, -0.0

    def parts(whole: torch.Tensor) -> list[torch.Tensor]:
        return [whole[:, a:b] for a, b in zip((0, *ends), ends, strict=False)]

    for whole in (x, x.contiguous()):
        flat, out = packed(parts(whole)), torch.zeros(x.shape, dtype=dtype)
        assert torch.equal(flat.view(torch.uint8), torch.cat([p.flatten() for p in parts(whole)]).view(torch.uint8))
        unpack(flat, parts(out))
        assert torch.equal(out.view(torch.uint8), x.contiguous().view(torch.uint8))


def test_parts_that_are_alike_are_one_copy():
    x = torch.zeros(5, 8, 3)
    assert [part.shape for _, part in pairs(x.flatten(), [x[:, a : a + 2] for a in range(0, 8, 2)])] == [(4, 5, 2, 3)]
    assert len(list(pairs(x.flatten(), [x[:, :3], x[:, 3:]]))) == 2


def relaid(rank: int, size: int) -> None:
    ranks = Ranks(dist.group.WORLD)
    for at_a_time in (2**28, 200):
        foldfit.problem.RELAY_BYTES = at_a_time
        for whole in ((7, 6), (5, 9), (size - 1, 3)):
            x = torch.arange(2.0 * whole[0] * whole[1] * 3).reshape(2, *whole, 3)
            for old in (0, 1):
                out = ranks.relay(ranks.narrow(x, 1 + old).contiguous(), old, 1 - old, whole)
                assert torch.equal(out, ranks.narrow(x, 2 - old)), (at_a_time, whole, old)


@pytest.mark.parametrize("size", [2, 3])
def test_a_large_tensor_is_relaid_in_parts(size):
    on_ranks(size, relaid, size)


def test_alone_is_no_group():
    assert Ranks().size == 1 and Ranks().own(7) == (0, 7)
