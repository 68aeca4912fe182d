"""Ranks that exchange rows, or columns, for channels compute what one does, in the memory that is promised."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

import foldfit.problem
from foldfit.cost.devices import find_device
from foldfit.errors import BadInput
from foldfit.planner.build import make_plan
from foldfit.planner.options import OptionTable, option_table
from foldfit.planner.policies import BlockChoice
from foldfit.plans import Choice
from foldfit.problem import Problem
from foldfit.runtime.job import job_of
from foldfit.runtime.launch import worst
from foldfit.runtime.measure import measure
from foldfit.runtime.ranks import Ranks
from foldfit.runtime.shards import shard, unshard
from tests import small
from tests.runtime.spawned import on_ranks
from tests.runtime.test_promise import TRUNKS

N_RES = (1, 6, 7)
WHOLE = 2**28


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
    for name, rows in (("evoformer", 5), ("pairformer", 0)):
        for n_res in N_RES:
            stacks = (small.stack(name, 2, rows),)
            one = Problem(stacks=stacks, n_res=n_res, memory=2**40, batch=2)
            expected = outputs(name, n_res, make_plan(option_table(one, find_device("cpu"))))
            for at_a_time in (WHOLE, 64):  # bytes: in one part, in several
                foldfit.problem.RELAY_BYTES = at_a_time
                for table in tables(stacks, n_res, size, batch=2):
                    plan = make_plan(table, f"{__name__}:exchanging")
                    assert sum(c.channels for c in plan.choices["a"]) == 2
                    got = outputs(name, n_res, plan, dist.group.WORLD)
                    for key, value in expected.items():
                        error = float((got[key] - value).norm() / value.norm())
                        assert error < 1e-5, f"{name}, {n_res} residues, {plan.choices}, rank {rank} of {size}, {key}: {error}"


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_that_exchange_channels_compute_what_one_does(size):
    on_ranks(size, same_as_one, size)


def kept(rank: int, size: int) -> None:
    for at_a_time in (WHOLE, 2**11):
        foldfit.problem.RELAY_BYTES = at_a_time
        for name, n_res in (("evoformer", 24), ("evoformer", 13), ("pairformer", 17)):
            for table in tables(TRUNKS[name], n_res, size):
                plan = make_plan(table, f"{__name__}:exchanging")
                job = job_of(plan, ranks=Ranks(dist.group.WORLD))
                measured = worst(measure(job.model, job.inputs, plan, repeat=0)).check()
                ratio = measured.peak_bytes / plan.promised.peak_bytes
                assert ratio >= 0.9, f"{plan.problem}, {plan.choices}: {ratio}"


@pytest.mark.parametrize("size", [2, 3])
def test_the_exchange_keeps_its_promise(size):
    on_ranks(size, kept, size)


def test_the_pair_is_relaid_twice_a_block():
    strict, loose = tables(TRUNKS["evoformer"], 24, 2)
    layouts = [[sub.options[0].choice.layout[-1] for sub in table.stacks[0].sub_modules[4:]] for table in (strict, loose)]
    assert layouts == [["0", "1", "0", "1", "1"], ["0", "0", "0", "1", "1"]]
    assert strict.having({"a": make_plan(strict).choices["a"]}) is strict


@pytest.mark.parametrize(
    ("changes", "problem", "match"),
    [({}, {}, "exchanges channels on one rank"), ({"layout": "m0 z0"}, {"world": 2, "axial": 2}, "MSA|exchange channels: it needs all")],
)
def test_a_plan_that_cannot_exchange_is_refused(changes, problem, match):
    trunk = small.trunk(small.stack("evoformer", 2))
    choices = tuple(Choice("reference", 100, 100, channels=True, **changes) for _ in trunk.specs[0].sub_modules)
    plan = small.unlimited(["run 0 a", "run 1 a", "end"], {"a": choices}, stacks=(small.stack("evoformer", 2, 5),), n_res=6, **problem)
    from foldfit.runtime.check import check_plan

    trunk.ranks = type("Two", (), {"size": problem.get("axial", 1)})()
    with pytest.raises(BadInput, match=match):
        check_plan(trunk, plan)
