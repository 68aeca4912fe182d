"""Checks that a plan and its inputs belong together before anything is allocated."""

import importlib.util
import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from foldfit._version import __version__
from foldfit.errors import BadInput, MissingEnvironment, NotSupported
from foldfit.ops import KERNELS
from foldfit.plans import Plan
from foldfit.problem import Stack
from foldfit.runtime.default import UNLIMITED
from foldfit.runtime.ranks import Ranks
from foldfit.stacks.kernels import INSTALL

if TYPE_CHECKING:
    from foldfit.runtime.trunk import Trunk

State = dict[str, Tensor]


def describe(stack: Stack) -> str:
    widths = "".join(f" {k}={v}" for k, v in sorted(stack.widths.items()))
    return f"{stack.blocks} x {stack.name}{widths}"


def check_plan(trunk: "Trunk", plan: Plan) -> None:
    """Raises BadInput for a plan of another trunk or number of ranks, NotSupported for another version or an unknown kernel,
    MissingEnvironment for a kernel whose package is not here."""
    if plan.version != __version__:
        raise NotSupported(f"the plan was made by foldfit {plan.version}, this is {__version__}: plan again")
    if plan.problem.axial != trunk.ranks.size:
        raise BadInput(
            f"the plan shares a sample among {plan.problem.axial} ranks, the model among {trunk.ranks.size}: start "
            f"{plan.problem.world} processes (torchrun --nproc-per-node {plan.problem.world}) and call model.over(group) in each"
        )
    ours, theirs = [describe(s) for s in trunk.stacks()], [describe(s) for s in plan.problem.stacks]
    if ours != theirs:
        raise BadInput(f"the plan is for {' + '.join(theirs)}, the model is {' + '.join(ours)}: plan for this model")
    stack_of = [spec for spec, s in zip(trunk.specs, plan.problem.stacks, strict=True) for _ in range(s.blocks)]
    for name, choices in plan.choices.items():
        for choice in choices:
            if choice.kernel not in KERNELS:
                raise NotSupported(f"choice {name} of the plan wants kernel {choice.kernel!r}; known: {', '.join(KERNELS)}")
            if choice.rows < 1 or choice.share_rows < 0:
                raise BadInput(f"choice {name} of the plan has {choice.rows} rows a slice: expected at least 1")
            if not set(choice.host.split()) <= set(plan.hosted):
                raise BadInput(f"choice {name} of the plan has {choice.host!r} on the host, the plan {' '.join(plan.hosted)!r}: plan again")
            if choice.piece_rows < 0 or (choice.piece_rows and plan.problem.axial == 1):
                raise BadInput(
                    f"choice {name} of the plan has pieces of {choice.piece_rows} rows on {plan.problem.axial} ranks: plan again"
                )
            if choice.channels and plan.problem.axial == 1:
                raise BadInput(f"choice {name} of the plan exchanges channels on one rank: plan again")
            if bool(choice.layout) != (plan.problem.axial > 1) or not re.fullmatch(r"(\w[01]( \w[01])*)?", choice.layout):
                raise BadInput(f"choice {name} of the plan has the layout {choice.layout!r} on {plan.problem.axial} ranks: plan again")
    check_packages(trunk, {choice.kernel for choices in plan.choices.values() for choice in choices})
    if plan.hosted and not (plan.problem.mode == "infer" and plan.problem.host_memory and plan.problem.inputs == "overwritten"):
        raise BadInput(
            f"the plan has {' '.join(plan.hosted)!r} on the host: expected an inference with host memory that overwrites its inputs"
        )
    for step in plan.schedule:
        check_step(step, plan, stack_of)
    check_kept(plan)
    if plan.schedule.count("end") != 1:
        raise BadInput(f"the plan's schedule has {plan.schedule.count('end')} steps `end`: expected 1")


def check_packages(trunk: "Trunk", kernels: set[str]) -> None:
    """Raises MissingEnvironment where a kernel's package is not installed."""
    for sub in (sub for spec in trunk.specs for sub in spec.sub_modules):
        for name in kernels & set(sub.kernels):
            for package in {k.package for k in sub.kernels[name].values() if k.package}:
                if importlib.util.find_spec(package) is None:
                    raise MissingEnvironment(f"the plan runs {sub.name} by {name}, which is not installed: pip install {INSTALL[package]}")


def check_step(step: str, plan: Plan, stack_of: list) -> None:
    name, *rest = step.split()
    expected = {"check": 1, "load": 1, "free": 1, "offload": 1, "drop": 1, "fetch": 1, "backward": 1, "run": 2, "record": 2, "end": 0}
    if name not in expected or len(rest) != expected[name]:
        raise BadInput(f"the plan's schedule has the step {step!r}: expected one of {', '.join(expected)}")
    if rest and not (rest[0].isdigit() and int(rest[0]) < len(stack_of)):
        raise BadInput(f"the plan's step {step!r} names a block that the trunk of {len(stack_of)} does not have")
    if len(rest) == 2:
        if rest[1] not in plan.choices:
            raise BadInput(f"the plan's step {step!r} names a choice it does not have: {', '.join(plan.choices)}")
        need = len(stack_of[int(rest[0])].sub_modules)
        if len(plan.choices[rest[1]]) != need:
            raise BadInput(f"choice {rest[1]} has {len(plan.choices[rest[1]])} sub-modules, the block of {step!r} {need}")
        for sub, choice in zip(stack_of[int(rest[0])].sub_modules, plan.choices[rest[1]], strict=True):
            if choice.piece_rows and not (sub.prepared and (name == "run" or choice.recompute)):
                raise BadInput(f"the plan's step {step!r} has {sub.name} in pieces: it needs all at once, or keeps what it would recompute")
            if choice.channels and not (sub.channels and name == "run"):
                raise BadInput(f"the plan's step {step!r} has {sub.name} exchange channels: it needs all at once, or is recorded")


def check_kept(plan: Plan) -> None:
    """Raises BadInput for a step that wants an input where it is not."""
    device: set[str] = set()
    host: set[str] = set()
    for step in plan.schedule:
        verb, block = (*step.split(), "")[:2]
        fine = {
            "load": block in device,
            "free": block in device | host,
            "offload": block in device - host and block != "0" and plan.problem.host_memory > 0,
            "drop": block in device & host,
            "fetch": block in host - device,
        }
        if not fine.get(verb, True):
            where = " and ".join(name for name, kept in (("device", device), ("host", host)) if block in kept) or "neither"
            raise BadInput(
                f"the plan's step {step!r} finds that input on {where}, with {plan.problem.host_memory} bytes of host memory: plan again"
            )
        if verb in ("check", "fetch"):
            device.add(block)
        if verb in ("drop", "free"):
            device.discard(block)
        if verb == "offload":
            host.add(block)
        if verb == "free":
            host.discard(block)


def check_card(planned: str, here: str) -> None:
    """Raises BadInput where the card's own name, "NVIDIA A100-SXM4-40GB", is not that of the device table, "A100-40GB"."""
    model = planned.split("-")[0]
    if not set(model.lower().split()) <= set(re.split(r"\W", here.lower())):
        raise BadInput(f"the plan is for {planned}, this card is {here}: plan with --device cuda, and --memory for its limit")


def part_of(whole: tuple[int, ...], axis: int, ranks: Ranks) -> tuple[int, ...]:
    start, stop = ranks.own(whole[axis])
    return (*whole[:axis], stop - start, *whole[axis + 1 :])


def of_ranks(shape: tuple[int, ...], whole: tuple[int, ...], ranks: Ranks) -> str:
    return f", rank {ranks.rank}'s rows of {list(whole)}" if shape != whole else ""


def in_order(x: torch.Tensor) -> bool:
    """Whether what is next to each other lies so, perhaps with gaps: other tensors are copied somewhere on their way."""
    strides = [stride for length, stride in zip(x.shape, x.stride(), strict=True) if length > 1]
    return strides[-1:] in ([], [1]) and strides == sorted(strides, reverse=True)


def check_inputs(
    trunk: "Trunk", plan: Plan, state: State, masks: State, train: bool, stored: set[torch.dtype]
) -> tuple[torch.Size, State, State]:
    """The batch shape, and state and masks with the samples flattened to one leading axis, in storage precision. Over several
    ranks the state is this rank's rows of axis 0, the masks are whole. `stored`: the dtypes of the parameters."""
    problem = plan.problem
    if train and problem.mode == "infer":
        raise BadInput("the plan is an inference, but gradients are on: call under torch.no_grad(), or plan with mode='train'")
    if not train and problem.mode == "train":
        raise BadInput("the plan is a training step, but no gradients are on: plan with mode='infer', or leave torch.no_grad()")
    dtype = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[problem.precision]
    batch = state["z"].shape[:-3] if "z" in state else torch.Size()
    out: State = {}
    out_masks: State = {}
    for spec, stack in zip(trunk.specs, problem.stacks, strict=True):
        numbers = {"n_seq": stack.rows, "n_extra": stack.rows, "n_res": problem.n_res, **spec.widths}
        for name, dims in spec.state.items():
            if name in out:
                continue
            whole = (*batch, *(numbers[d] for d in dims))
            x, shape = state.get(name), part_of(whole, len(batch), trunk.ranks)
            expected = f"{name} [{', '.join(dims)}] = {list(shape)}{of_ranks(shape, whole, trunk.ranks)}"
            if x is None or tuple(x.shape) != shape:
                raise BadInput(f"expected {expected}, got {'nothing' if x is None else list(x.shape)}: plan for these sizes")
            if x.dtype != dtype:
                raise BadInput(f"{name} is {x.dtype}, the plan is {problem.precision}: call {name}.to({dtype}), or plan in its precision")
            if x.device.type != ("cpu" if name in plan.hosted else problem.device_type):
                where = "the host" if name in plan.hosted else problem.device
                raise BadInput(f"{name} is on {x.device.type}, the plan has it on {where}: move it, or plan for this device")
            if name in plan.hosted and not x.is_contiguous():
                raise BadInput(f"{name} is worked on where it lies on the host: expected it contiguous, got strides {list(x.stride())}")
            if plan.promised.peak_bytes < UNLIMITED and not (in_order(x) and (len(batch) < 2 or x.is_contiguous())):
                raise BadInput(
                    f"{name} has strides {list(x.stride())}, and the plan promises for rows in order: hand over {name}.contiguous()"
                )
            if x.is_cuda:
                check_card(problem.device, torch.cuda.get_device_name(x.device))
            out[name] = x.reshape(batch.numel(), *shape[len(batch) :])
            mask = masks.get(name)
            if mask is None:
                mask = x.new_ones((), device=problem.device_type).expand(whole[:-1])
            if not isinstance(mask, torch.Tensor) or tuple(mask.shape) != whole[:-1]:
                got = list(mask.shape) if isinstance(mask, torch.Tensor) else repr(mask)[:40]
                raise BadInput(f"{spec.masks[name]}: expected {list(whole[:-1])}, got {got}")
            out_masks[name] = mask.to(dtype).reshape(-1, *whole[len(batch) : -1]).contiguous()
    if len(out["z"]) != problem.batch:
        raise BadInput(f"the plan is for a batch of {problem.batch}, got {len(out['z'])}")
    if len(stored) > 1:
        raise BadInput("the model's parameters are of several dtypes: expected one, call model.to(dtype)")
    (held,) = stored
    if problem.parameters != {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}.get(held):
        raise BadInput(f"the plan has parameters in {problem.parameters}, the model in {held}: plan again, or call .to()")
    return batch, out, out_masks
