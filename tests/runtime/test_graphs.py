"""A captured step with its collectives is the eager step, on any ranks, under any plan: on a CPU, with what stands for graphs."""

from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist

from foldfit.runtime import ranks as runtime_ranks
from foldfit.runtime.captured import Captured, Replay
from foldfit.runtime.executor import Executor
from foldfit.runtime.ranks import Ranks
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
        graphs, ranks.waits = CpuGraphs(), []  # timed in replays where they are when they are captured
        part = Captured(trunk, plan, state, masks, graphs=graphs)
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
                if each is run:
                    expected, waits = found, len(ranks.waits)
            assert len(ranks.waits) == waits > 0
            for key, value in expected.items():
                assert torch.equal(found[key], value), f"{name}, {plan_name}, {problem}, rank {rank} of {size}, turn {turn}, {key}"


@pytest.mark.parametrize("size", [2, 3])
def test_replays_are_runs(size):
    on_ranks(size, replays_are_runs, size)
