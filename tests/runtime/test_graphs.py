"""A captured step with its collectives is the eager step, on any ranks, under any plan: on a CPU, with what stands for graphs."""

import os
from contextlib import contextmanager, nullcontext

import msgspec
import pytest
import torch
import torch.distributed as dist

from foldfit.cost.devices import find_device
from foldfit.cost.resident import resident_bytes
from foldfit.planner.build import make_plan
from foldfit.planner.options import option_table
from foldfit.problem import Problem
from foldfit.runtime import ranks as runtime_ranks
from foldfit.runtime.captured import Captured, Replay
from foldfit.runtime.check import check_inputs
from foldfit.runtime.executor import Executor
from foldfit.runtime.graphs import leave_buffers_unregistered
from foldfit.runtime.job import job_of
from foldfit.runtime.measure import split_inputs
from foldfit.runtime.meter import TensorMeter
from foldfit.runtime.ranks import ALONE, Ranks
from foldfit.runtime.trunk import Differentiable
from tests import small
from tests.runtime.recorded import CpuGraphs
from tests.runtime.spawned import on_ranks
from tests.runtime.test_ranks import PLANS, whole_inputs

CASES = [
    ("evoformer", "whole, kept", {}),
    ("evoformer", "nested", {"n_res": 3, "batch": 2}),
    ("evoformer", "one row, recomputed", {"n_res": 1, "stacks": (small.stack("evoformer", 2, 1),)}),  # ranks without rows
    ("evoformer", "pieces", {"n_res": 7}),
    ("extra_msa", "blocks recomputed", {"n_res": 5}),
    ("pairformer", "whole, kept", {"mode": "infer"}),
]


def replays_are_runs(rank: int, size: int) -> None:
    torch.use_deterministic_algorithms(True)
    runtime_ranks.let_go = lambda *tensors: nullcontext()  # what is recorded is held
    ranks = Ranks(dist.group.WORLD)
    for name, plan_name, problem in CASES if size == 2 else CASES[1:3]:
        trunk = small.trunk(small.stack(name, 2))
        for p in trunk.parameters():
            dist.broadcast(p.data, 0)
        trunk.ranks = ranks
        plan = PLANS[plan_name](trunk, size, **problem)
        state, masks, grads = ({k: ranks.narrow(x, 1).contiguous() for k, x in some.items()} for some in whole_inputs(trunk, plan))
        masks = whole_inputs(trunk, plan)[1]
        graphs, ranks.waits = CpuGraphs(), []
        part = Captured(trunk, plan, state, masks, graphs=graphs)
        assert ranks.waits  # of the rehearsal
        assert len(graphs.sizes) == 1 + (plan.problem.mode == "train") and graphs.collectives > 10
        for turn in range(2):
            graphs.spoil()
            here = {k: x + turn for k, x in state.items()}
            run, replay = Executor(trunk.sub_modules(), plan, masks, None, ranks=ranks), Replay(part)
            for each in (run, replay):
                ranks.waits = []
                with torch.no_grad():
                    found = each.forward(here)
                    if plan.problem.mode == "train":
                        d_state, gradients = each.backward({k: x.clone() for k, x in grads.items()}, list(trunk.parameters()))
                        found = found | {f"d {k}": x for k, x in d_state.items()} | {"gradients": gradients.flat}
                assert bool(ranks.waits) == (each is run)
                if each is run:
                    expected = found
            for key, value in expected.items():
                assert torch.equal(found[key], value), f"{name}, {plan_name}, {problem}, rank {rank} of {size}, turn {turn}, {key}"


@pytest.mark.parametrize("size", [2, 3])
def test_replays_are_runs(size):
    on_ranks(size, replays_are_runs, size)


class Held:
    """Runs what is to be captured, and measures what graphs of it would hold."""

    def __init__(self) -> None:
        self.held = 0

    @contextmanager
    def rehearsing(self):
        yield

    @contextmanager
    def capturing(self):
        with TensorMeter() as meter:
            yield
            self.held = meter.peak - meter.now

    def begin(self) -> None:
        pass

    def end(self):
        return lambda: None


def graphs_keep_the_promise(rank: int, size: int) -> None:
    """Of the bytes that a plan launched as graphs adds to the eager one's, over which a CPU can be asked."""
    ranks = Ranks(dist.group.WORLD) if size > 1 else ALONE
    for policy in ("large", "small", "none"):
        problem = Problem(stacks=(small.stack("evoformer", 2, 48),), n_res=16, mode="train", memory=2**40, world=size, axial=size)
        plan = make_plan(option_table(problem, find_device("cpu")), policy)
        job = job_of(plan, ranks=ranks)
        state, masks = split_inputs(job.model, job.inputs)
        state, masks = check_inputs(job.model, plan, state, masks, True, {torch.float32})[1:]
        parameters = list(job.model.parameters())
        with TensorMeter() as meter:
            for x in (*parameters, *state.values(), *masks.values()):
                meter.adopt(x)
            graphs = Captured(job.model, plan, state, masks, graphs=Held())
            meter.peak = meter.now
            out = Differentiable.apply(Replay(graphs), list(state), ["m", "z"], parameters, *state.values(), *parameters)
            torch.autograd.backward(out, [torch.randn_like(x) for x in out])
            used = meter.peak + graphs.held
        as_graphs = msgspec.structs.replace(problem, device="H100", device_type="cuda", launch="graph")
        stays, joins = resident_bytes(as_graphs, 1)
        promised = plan.promised.peak_bytes + stays["graph"] - stays["workspace"] + joins["graph's gradients"]
        assert 0.9 * promised * (rank == 0) <= used <= promised, (policy, size, used, promised)  # others may have fewer rows


@pytest.mark.parametrize("size", [1, 2, 3])
def test_graphs_keep_the_promise(size):
    if size == 1:
        graphs_keep_the_promise(0, 1)
    else:
        on_ranks(size, graphs_keep_the_promise, size)


def test_nccl_registers_nothing_unless_told_to(monkeypatch):
    for given, after in ((None, "0"), ("1", "1")):
        monkeypatch.delenv("NCCL_GRAPH_REGISTER", raising=False)
        if given:
            monkeypatch.setenv("NCCL_GRAPH_REGISTER", given)
        leave_buffers_unregistered()
        assert os.environ["NCCL_GRAPH_REGISTER"] == after
