"""State tensors of an inference on the host: equal results to the bit, promises kept on both sides, the caller's tensors written in place."""

from dataclasses import replace
from functools import cache

import msgspec
import pytest
import torch

from foldfit.cost.devices import find_device
from foldfit.errors import BadInput
from foldfit.planner.build import make_plan
from foldfit.planner.options import OptionTable, option_table
from foldfit.planner.residency import walk
from foldfit.plans import Choice, Plan
from foldfit.problem import Problem, Stack
from foldfit.runtime.check import check_plan
from foldfit.runtime.job import Job, job_of
from foldfit.runtime.measure import measure
from tests import small

CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory and streams need a CUDA device")
TRUNKS = {
    "evoformer": (small.stack("evoformer", 2, 12),),
    "extra_msa": (small.stack("extra_msa", 2, 40),),
    "pairformer": (small.stack("pairformer", 2),),
    "two stacks": (small.stack("extra_msa", 1, 24), small.stack("evoformer", 2, 12)),
}


def table_of(trunk: str, link: float = 1e10, **more) -> OptionTable:
    fields = dict(n_res=23, host_memory=2**40, inputs="overwritten", memory=2**40) | more
    return option_table(Problem(stacks=TRUNKS[trunk], **fields), replace(find_device("cpu"), host_link=link))


def at_home(table: OptionTable, hosted: tuple[str, ...], part: float) -> Plan:
    """The plan for one home, in `part` of the way from the least memory to what whole sub-modules take."""
    sizes = {name: size for stack in table.stacks for name, size in stack.state.items() if name in hosted}
    low, high = least(table), make_plan(table, "none").promised.peak_bytes
    limited = replace(table, problem=msgspec.structs.replace(table.problem, memory=int(low + part * (high - low))))
    return make_plan(limited, home=walk(limited, sizes))


def least(table: OptionTable) -> int:
    from foldfit.planner.lengths import least

    return least(table)


def held(plan: Plan) -> Plan:
    """The same choices, with everything on the device."""
    choices = {name: tuple(msgspec.structs.replace(c, host="") for c in chosen) for name, chosen in plan.choices.items()}
    return msgspec.structs.replace(plan, choices=choices, hosted=()).signed()


def result(job: Job, plan: Plan) -> dict[str, torch.Tensor]:
    state = {name: job.inputs[name].clone() for name in job.inputs if not name.endswith("mask")}
    masks = {name: mask(job, name) for name in state}
    return {name: x.clone() for name, x in job.model.run(state, masks, plan).items()}
