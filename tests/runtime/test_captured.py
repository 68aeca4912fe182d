"""A captured plan is the same plan: equal results and gradients, new dropout at every replay."""

from types import SimpleNamespace

import msgspec
import pytest
import torch
import torch.distributed as dist

from foldfit.errors import BadInput
from foldfit.planner.api import plan_problem
from foldfit.problem import Problem, Stack
from foldfit.runtime.captured import Replay
from foldfit.runtime.measure import measure
from foldfit.runtime.meter import exact_allocator
from foldfit.runtime.trunk import DTYPES, Evoformer
from tests.runtime.spawned import on_ranks

CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")


def plan_of(launch: str, dropout: bool):
    """By the same choices, whichever the launch."""
    problem = Problem(
        stacks=(Stack("evoformer", 2, 40),), n_res=96, mode="train", precision="bf16", parameters="bf16", dropout=dropout,
        device="H200", device_type="cuda", memory=2**31, launch="graph",
    )  # fmt: skip
    plan = plan_problem(problem)
    return msgspec.structs.replace(plan, problem=msgspec.structs.replace(problem, launch=launch)).signed()


@CARD
@pytest.mark.parametrize("dropout", [False, True])
def test_replays_are_eager_runs(dropout):
    model = Evoformer(n_blocks=2).cuda().bfloat16().train(dropout)
    x = [torch.randn(40, 96, 256).cuda().bfloat16(), torch.randn(96, 96, 128).cuda().bfloat16()]
    results = []
    for launch in ("eager", "graph", "graph"):
        m, z = (t.clone().requires_grad_() for t in x)
        a, b = model(m, z, plan=plan_of(launch, dropout))
        (a.float().square().sum() + b.float().square().sum()).backward()
        results.append([t.clone() for t in (a, b, m.grad, z.grad)])
        model.zero_grad()
    same = [all(torch.equal(p, q) for p, q in zip(results[i], results[j], strict=True)) for i, j in ((0, 1), (1, 2))]
    assert same == [not dropout, not dropout]


@CARD
def test_a_second_forward_before_backward_is_refused():
    model = Evoformer(n_blocks=2).cuda().bfloat16()
    m, z = torch.randn(40, 96, 256).cuda().bfloat16().requires_grad_(), torch.randn(96, 96, 128).cuda().bfloat16()
    plan = plan_of("graph", False)
    first, _ = model.eval()(m, z, plan=plan)
    kept = first.clone()
    model(2 * m, z, plan=plan)
    assert torch.equal(first, kept)
    with pytest.raises(BadInput, match="ran forward again"):
        first.sum().backward()


@CARD
def test_what_graphs_hold_is_measured():
    model, plan = Evoformer(n_blocks=2).cuda().bfloat16(), plan_of("graph", False)
    x = [torch.randn(40, 96, 256).cuda().bfloat16(), torch.randn(96, 96, 128).cuda().bfloat16()]
    measured = measure(model, x, plan, repeat=0)
    most = plan.promised.peak_bytes
    least = 0.9 * most - plan.resident["workspace"]  # of one of the two streams, which here is a fifth of all
    assert least <= measured.peak_bytes <= most


def over_ranks(rank: int) -> None:
    """The same plan launched both ways, by NCCL; sizes do not divide. With the meter's allocator, under which replays have hung."""
    torch.cuda.set_device(rank)
    exact_allocator()
    group = dist.new_group(backend="nccl")
    for precision, dropout in (("fp32", True), ("bf16", False)):
        problem = Problem(
            stacks=(Stack("evoformer", 2, 41),), n_res=97, mode="train", precision=precision, dropout=dropout, device="H200",
            device_type="cuda", memory=2**31, launch="graph", world=2, axial=2,
        )  # fmt: skip
        graph = plan_problem(problem)
        eager = msgspec.structs.replace(graph, problem=msgspec.structs.replace(problem, launch="eager")).signed()
        torch.manual_seed(0)
        model = Evoformer(n_blocks=2).cuda().train(dropout).over(group)
        for _ in range(3):
            x = [torch.randn(41 // 2 + (rank == 0), 97, 256).cuda(), torch.randn(97 // 2 + (rank == 0), 97, 128).cuda()]
            x, results = [t.to(DTYPES[precision]) for t in x], []
            for plan in (eager, graph):
                torch.manual_seed(1)
                m, z = (t.clone().requires_grad_() for t in x)
                a, b = model(m, z, plan=plan)
                (a.float().square().sum() + b.float().square().sum()).backward()
                results.append([t.clone() for t in (a, b, m.grad, z.grad, *(p.grad for p in model.parameters()))])
                model.zero_grad()
            assert all(torch.equal(p, q) for p, q in zip(*results, strict=True)), (precision, dropout)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two ranks need two CUDA devices")
def test_replays_over_ranks_are_eager_runs():
    on_ranks(2, over_ranks)


def test_a_run_knows_whether_another_came_between():
    """The handle alone, with graphs that do nothing."""
    nothing = SimpleNamespace(replay=lambda: None)
    one = {"z": torch.ones(2)}
    graphs = SimpleNamespace(
        replay=lambda part: part.replay(), state={"z": torch.zeros(2)}, drawn=False, forward_part=nothing, backward_part=nothing, turn=0,
        out=one, grads={"z": torch.zeros(2)}, d_state=one, parameters=[],
        gradients=SimpleNamespace(copy=lambda parameters: None),
    )  # fmt: skip
    first, second = Replay(graphs), Replay(graphs)
    out = first.forward(one)
    assert torch.equal(out["z"], one["z"]) and out["z"] is not one["z"]
    first.backward(one, [])
    first.forward(one)
    second.forward(one)
    with pytest.raises(BadInput, match="ran forward again"):
        first.backward(one, [])
    second.backward(one, [])


def test_graphs_are_for_cuda():
    with pytest.raises(BadInput, match="graphs are CUDA's"):
        Problem(stacks=(Stack("evoformer", 2, 40),), n_res=96, memory=2**31, launch="graph")
