"""Ranks that exchange rows, or columns, for channels compute what one does, in the memory that is promised."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

import foldfit.problem
from foldfit.cost.channels import channel_bytes
from foldfit.cost.devices import find_device
from foldfit.cost.memory import Setting
from foldfit.errors import BadInput
from foldfit.model import SUB_MODULES
from foldfit.planner.build import make_plan
from foldfit.planner.options import OptionTable, option_table
from foldfit.planner.policies import BlockChoice
from foldfit.plans import Choice
from foldfit.problem import Problem
from foldfit.runtime.apply import Call, forward
from foldfit.runtime.check import check_plan
from foldfit.runtime.job import job_of
from foldfit.runtime.launch import worst
from foldfit.runtime.measure import measure
from foldfit.runtime.meter import TensorMeter
from foldfit.runtime.ranks import Ranks, layout_of
from foldfit.runtime.shards import shard, unshard
from tests import small
from tests.runtime.spawned import on_ranks
from tests.runtime.test_promise import TRUNKS

WHOLE = 2**28
CASES = (("evoformer", 7, 64), ("evoformer", 1, WHOLE), ("pairformer", 6, WHOLE))
"""Stack, residues, bytes that are on their way at a time: of 64 all goes in many parts."""


def exchanging(table: OptionTable) -> list[BlockChoice]:
    """Whatever can; the rest by the fastest option."""
    return [
        BlockChoice(
            tuple(min(sub.options, key=lambda o: (bool(sub.spec.channels) != o.choice.channels, o.seconds)) for sub in stack.sub_modules)
        )
        for stack in table.stacks
        for _ in range(stack.blocks)
    ]


def tables(stacks, n_res: int, size: int, **more) -> list[OptionTable]:
    """With all relays, and with fewer."""
    problem = Problem(stacks=stacks, n_res=n_res, memory=2**40, world=size, axial=size, **more)
    table = option_table(problem, find_device("cpu"))
    assert table.loose
    return [replace(table, loose=None), table.loose]


def outputs(name: str, n_res: int, plan, group=None) -> dict[str, torch.Tensor]:
    """Whole, of an inference of two samples."""
    torch.manual_seed(0)
    stack = plan.problem.stacks[0]
    trunk = small.trunk(small.stack(name, 2)).over(group)
    numbers = {"n_seq": stack.rows, "n_extra": stack.rows, "n_res": n_res, **trunk.specs[0].widths}
    generator = torch.Generator().manual_seed(5)
    shapes = {k: (2, *(numbers[d] for d in dims)) for k, dims in trunk.specs[0].state.items()}
    state = {k: torch.randn(shape, generator=generator) for k, shape in shapes.items()}
    masks = {k: (torch.rand(shape[:-1], generator=generator) > 0.2).float() for k, shape in shapes.items()}
    with torch.no_grad():
        out = trunk.run({k: shard(x, group, dim=1) for k, x in state.items()} if group else state, masks, plan)
    return {k: unshard(x, group, dim=1) if group else x for k, x in out.items()}


def same_as_one(rank: int, size: int) -> None:
    for name, n_res, foldfit.problem.RELAY_BYTES in CASES:
        stacks = (small.stack(name, 2, 5 if name == "evoformer" else 0),)
        alone = Problem(stacks=stacks, n_res=n_res, memory=2**40, batch=2)
        expected = outputs(name, n_res, make_plan(option_table(alone, find_device("cpu"))))
        for table in tables(stacks, n_res, size, batch=2):
            plan = make_plan(table, f"{__name__}:exchanging")
            assert sum(c.channels for c in plan.choices["a"]) == 2
            got = outputs(name, n_res, plan, dist.group.WORLD)
            for key, value in expected.items():
                error = float((got[key] - value).norm() / value.norm())
                assert error < 1e-5, f"{name}, {n_res} residues, {plan.choices}, rank {rank} of {size}, {key}: {error}"


def kept(rank: int, size: int) -> None:
    for name, n_res, foldfit.problem.RELAY_BYTES in (("evoformer", 13, 2**11), ("pairformer", 17, WHOLE)):
        for table in tables(TRUNKS[name], n_res, size):
            plan = make_plan(table, f"{__name__}:exchanging")
            job = job_of(plan, ranks=Ranks(dist.group.WORLD))
            measured = worst(measure(job.model, job.inputs, plan, repeat=0)).check()
            ratio = measured.peak_bytes / plan.promised.peak_bytes
            assert ratio >= 0.9, f"{plan.problem}, {plan.choices}: {ratio}"


def taken(rank: int, size: int) -> None:
    """Of the sub-module alone, whose moments are others than those of its product."""
    for n_res, foldfit.problem.RELAY_BYTES in ((24, WHOLE), (24, 2**11), (25, 2**12)):
        for table in tables(TRUNKS["evoformer"], n_res, size):
            problem, stack = table.problem, table.stacks[0]
            for sub in (s for s in stack.sub_modules if s.spec.channels):
                (option,) = (o for o in sub.options if o.choice.channels)
                ranks, module = Ranks(dist.group.WORLD), SUB_MODULES[sub.spec.kind](sub.spec)
                at = layout_of(option.choice.layout)["z"]
                z = ranks.narrow(torch.randn(1, n_res, n_res, sub.spec.widths["c"]), 1 + at).contiguous()
                call = Call(module, option.choice, {"z": torch.ones(z.shape[:-1])}, ranks=ranks, total=n_res)
                with TensorMeter() as meter:
                    forward(call, {"z": z}, z)
                here = Setting(replace(stack.shapes, layout={"z": at}), problem.itemsize)
                promised = channel_bytes(sub.spec, sub.spec.kernels["reference"]["cpu"], option.choice, here).forward
                assert meter.peak <= promised and (rank or meter.peak >= 0.9 * promised), (n_res, sub.spec.name, at, meter.peak, promised)


def exchange(rank: int, size: int) -> None:
    same_as_one(rank, size)
    if size < 4:
        taken(rank, size)
    if size == 2:
        kept(rank, size)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_that_exchange_channels_compute_what_one_does_in_the_memory_that_is_promised(size):
    on_ranks(size, exchange, size)


def test_the_pair_is_relaid_twice_a_block():
    strict, loose = tables(TRUNKS["evoformer"], 24, 2)
    layouts = [[sub.options[0].choice.layout[-1] for sub in table.stacks[0].sub_modules[4:]] for table in (strict, loose)]
    assert layouts == [["0", "1", "0", "1", "1"], ["0", "0", "0", "1", "1"]]


@pytest.mark.parametrize(
    ("changes", "problem", "match"),
    [({}, {}, "exchanges channels on one rank"), ({"layout": "m0 z0"}, {"world": 2, "axial": 2}, "exchange channels: it needs all")],
)
def test_a_plan_that_cannot_exchange_is_refused(changes, problem, match):
    trunk = small.trunk(small.stack("evoformer", 2))
    choices = tuple(Choice("reference", 100, 100, channels=True, **changes) for _ in trunk.specs[0].sub_modules)
    plan = small.unlimited(["run 0 a", "run 1 a", "end"], {"a": choices}, stacks=(small.stack("evoformer", 2, 5),), n_res=6, **problem)
    trunk.ranks = type("Two", (), {"size": problem.get("axial", 1)})()
    with pytest.raises(BadInput, match=match):
        check_plan(trunk, plan)
