"""One more run of a plan, for its seconds sub-module by sub-module or for the allocator's own history."""

import os

import msgspec
import torch

from foldfit.errors import MissingEnvironment, NotSupported
from foldfit.plans import Plan, replacing
from foldfit.runtime.job import Job
from foldfit.runtime.measure import Measured, once, split_inputs
from foldfit.runtime.ranks import between, mark

HISTORY = 1_000_000
"""Allocations and frees that a snapshot may hold."""


def time_steps(job: Job, plan: Plan, measured: Measured) -> Measured:
    """With the seconds of each step, from one run without the meter; on CUDA by events on its stream, so that nothing waits. A
    captured plan has no steps, and stays as it is."""
    cuda = plan.problem.device_type == "cuda"
    state, masks = split_inputs(job.model, job.inputs)
    marks = [mark(cuda)]
    once(job.model, state, masks, plan, job.optimizer, lambda step, sub_module: marks.append(mark(cuda)))
    if cuda:
        torch.cuda.synchronize()
    seconds = [between(a, b) for a, b in zip(marks, marks[1:], strict=False)]
    if len(seconds) != len(measured.steps):
        return measured
    steps = tuple(msgspec.structs.replace(step, seconds=s) for step, s in zip(measured.steps, seconds, strict=True))
    return msgspec.structs.replace(measured, steps=steps)


def can_snapshot(plan: Plan) -> None:
    """Raises NotSupported for a plan on the processor, MissingEnvironment without a card."""
    if plan.problem.device_type != "cuda":
        raise NotSupported("--snapshot is the history of CUDA's allocator, and this is a plan for cpu: --trace shows its memory too")
    if not torch.cuda.is_available():
        raise MissingEnvironment(f"--snapshot needs the plan's {plan.problem.device}, and this machine has no CUDA device")


def snapshot(job: Job, plan: Plan, path: "str | os.PathLike[str]") -> None:
    """Writes PyTorch's memory snapshot of one run, for https://pytorch.org/memory_viz. Raises as `can_snapshot` and
    `replacing`."""
    can_snapshot(plan)
    state, masks = split_inputs(job.model, job.inputs)
    torch.cuda.memory._record_memory_history(max_entries=HISTORY, stacks="python")
    try:
        once(job.model, state, masks, plan, job.optimizer)
        torch.cuda.synchronize()
        with replacing(path) as temporary:
            torch.cuda.memory._dump_snapshot(str(temporary))
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
