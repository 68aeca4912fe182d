"""The planner for users of Python: sizes and names in, plans out. A model is asked for its stacks, no tensor is made."""

import operator
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from foldfit.cost.devices import Device, find_device
from foldfit.errors import BadInput
from foldfit.planner import api
from foldfit.planner.api import Outlook, Row
from foldfit.planner.lengths import longest_n_res
from foldfit.plans import Plan
from foldfit.problem import Gradients, Launch, Mode, Optimizer, Precision, Problem, Stack
from foldfit.stacks.kernels import known_providers
from foldfit.units import parse_host_memory, parse_memory

if TYPE_CHECKING:
    from foldfit.runtime.trunk import Trunk

Model = "Trunk | Iterable[Stack]"


def problem_of(
    model: "Trunk | Iterable[Stack]",
    *,
    n_res: int,
    n_seq: int = 0,
    n_extra: int = 0,
    mode: Mode = "infer",
    precision: Precision = "fp32",
    optimizer: Optimizer = "none",
    gradients: Gradients = "fresh",
    dropout: bool | None = None,
    batch: int = 1,
    launch: Launch = "eager",
    inputs: str = "kept",
    device: str | Device = "cpu",
    memory: str | int = "auto",
    host_memory: str | int = 0,
    gpus: int = 1,
    axial: int | None = None,
    costs: str = "",
    providers: Iterable[str] = (),
) -> tuple[Problem, Device]:
    """The problem that the arguments of `plan` name, and its device. Raises BadInput."""
    named = known_providers((providers,) if isinstance(providers, str) else providers)
    found = replace(device if isinstance(device, Device) else local_device(str(device)), costs=costs, providers=named)
    stored = ""
    given = tuple(model) if isinstance(model, Iterable) else ()
    if hasattr(model, "stacks"):
        stacks = model.stacks(n_seq, n_extra)  # type: ignore[union-attr]
        stored = str(next(model.parameters()).dtype).removeprefix("torch.")  # type: ignore[union-attr]
        parameters = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}.get(stored)
    elif given and all(isinstance(stack, Stack) for stack in given):
        stacks, parameters = given, {"tf32": "fp32"}.get(precision, precision)
    else:
        raise BadInput(f"expected a trunk, as foldfit.Evoformer, or its stacks, each a foldfit.Stack, got {model!r:.60}")
    if parameters is None:
        raise BadInput(f"the model's parameters are {stored}: expected float32, bfloat16 or float16")
    limit = parse_memory(memory, found.memory, found.reserved) if isinstance(memory, str) else whole(memory, "memory")
    host = parse_host_memory(host_memory) if isinstance(host_memory, str) else whole(host_memory, "host_memory")
    return Problem(
        stacks=stacks, n_res=n_res, mode=mode, precision=precision, parameters=parameters, optimizer=optimizer,  # type: ignore[arg-type]
        gradients=gradients,
        dropout=mode == "train" if dropout is None else dropout, batch=batch, launch=launch, inputs=inputs, device=found.name,  # type: ignore[arg-type]
        device_type="cpu" if found.name == "cpu" else "cuda", memory=limit, host_memory=host, world=gpus,
        axial=gpus if axial is None else axial,
    ), found  # fmt: skip


def whole(size: object, name: str) -> int:
    """Bytes. Raises BadInput for what is no whole number."""
    try:
        return operator.index(size)  # type: ignore[arg-type]
    except TypeError:
        raise BadInput(f"{name}: expected bytes as a whole number, or a text as '16GiB', got {size!r}") from None


def local_device(name: str) -> Device:
    if name == "cuda":
        from foldfit.profile.here import cuda_device

        return cuda_device()
    return find_device(name)


def plan(model: "Trunk | Iterable[Stack]", *, policy: str = "auto", solver: str = "chain", **problem: object) -> Plan:
    """The fastest plan that fits.

    model: a trunk (Evoformer, ExtraMSAStack, Pairformer, Trunk), or its stacks, each a `Stack`. n_seq, n_extra, n_res: sizes.
    mode: "infer" or "train". precision: fp32, tf32, bf16, fp16. optimizer: none, sgd, adam. gradients:
    "fresh", or "accumulated" where a step finds those of earlier ones. dropout: whether a training step
    has it (default yes). batch: samples. inputs: "kept", or "overwritten" for an inference that writes into its inputs.
    launch: "eager", or "graph" for CUDA graphs, captured at the first call. device: a name of the device table, "cpu", or
    "cuda" for the card in this machine. memory: the limit, bytes or as "16GiB", "80%", "auto". host_memory: pinned memory, bytes or
    as "64GiB" (default none), for block inputs of a training step, or for state tensors of an inference with overwritten inputs:
    those that `Plan.hosted` names are handed over there. gpus: ranks, a device each, with these limits each; axial: how many of
    them share one sample (default all). costs: a file of measured costs; default: this machine's own or the shipped ones;
    "modelled": none. providers: kernels of optional packages that the machine has, as "cueq"; those that `foldfit doctor --kernels`
    trusts on this machine need no word. policy: auto, none, small, large, chunk, a registered name or module:function.

    Raises DoesNotFit (need, have, what would fit), BadInput, NotSupported.
    """
    return api.plan_problem(*problem_of(model, **problem), policy, solver)  # type: ignore[arg-type]


def compare(model: "Trunk | Iterable[Stack]", *, policies: Iterable[str] = (), **problem: object) -> list[Row]:
    """Every policy's plan, or why it has none. Arguments as `plan`."""
    return api.compare(*problem_of(model, **problem), policies)  # type: ignore[arg-type]


def frontier(model: "Trunk | Iterable[Stack]", *, points: int = 12, **problem: object) -> Outlook:
    """What memory buys: the memory-time frontier, its price at the limit, the next larger card. Arguments as `plan`."""
    return api.frontier(*problem_of(model, **problem), points)  # type: ignore[arg-type]


def max_length(model: "Trunk | Iterable[Stack]", *, policy: str = "auto", **problem: object) -> int:
    """The largest n_res that a plan fits with, or up to 0.2 % less; 0 where none does. Arguments as `plan`, without n_res."""
    return longest_n_res(*problem_of(model, n_res=1, **problem), policy)  # type: ignore[arg-type]
