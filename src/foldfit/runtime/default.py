"""The plan of a model that was given none: every sub-module whole, everything kept. The same executor runs it."""

from typing import TYPE_CHECKING

from torch import Tensor

from foldfit._version import __version__
from foldfit.errors import BadInput
from foldfit.plans import Choice, Plan, Promise
from foldfit.problem import Mode, Problem

if TYPE_CHECKING:
    from foldfit.runtime.trunk import Trunk

UNLIMITED = 2**63 - 1
"""Bytes: a plan that promises nothing."""

STORAGE = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def storage(x: Tensor) -> str:
    name = str(x.dtype).removeprefix("torch.")
    if name not in STORAGE:
        raise BadInput(f"dtype {name} is not one of {', '.join(STORAGE)}")
    return STORAGE[name]


def default_plan(trunk: "Trunk", state: dict[str, Tensor], mode: Mode) -> Plan:
    """Promises nothing: its peak is unlimited and it names no seconds."""
    for spec in trunk.specs:
        for name, dims in spec.state.items():
            x = state.get(name)
            if not isinstance(x, Tensor) or x.dim() < len(dims):
                got = list(x.shape) if isinstance(x, Tensor) else "nothing" if x is None else repr(x)[:40]
                raise BadInput(f"{spec.name} needs the tensor {name} [{', '.join(dims)}], got {got}")
    z = state["z"]
    n_res = z.shape[-2]
    sample = z.shape[:-3].numel() if z.dim() > 3 else 1
    sizes = {"n_seq": state["m"].shape[-3] if "m" in state else 0, "n_extra": state["e"].shape[-3] if "e" in state else 0}
    problem = Problem(
        stacks=trunk.stacks(**sizes),
        n_res=n_res,
        mode=mode,
        precision=storage(z),  # type: ignore[arg-type]
        parameters=storage(next(trunk.parameters())),  # type: ignore[arg-type]
        dropout=mode == "train",
        batch=sample,
        device=z.device.type,
        device_type="cuda" if z.is_cuda else "cpu",
        memory=UNLIMITED,
    )
    names: dict[str, str] = {}
    choices: dict[str, tuple[Choice, ...]] = {}
    schedule: list[str] = []
    for spec, stack in zip(trunk.specs, problem.stacks, strict=True):
        names[spec.name] = chr(ord("a") + len(choices))
        lengths = [state[sub.reads[0][0]].shape[sub.reads[0][1] - len(spec.state[sub.reads[0][0]])] for sub in spec.sub_modules]
        shared = [state[s.shares[0]].shape[s.shares[1] - len(spec.state[s.shares[0]])] if s.shares else 0 for s in spec.sub_modules]
        choices[names[spec.name]] = tuple(Choice("reference", rows, share) for rows, share in zip(lengths, shared, strict=True))
        schedule += [names[spec.name]] * stack.blocks
    step = "run" if mode == "infer" else "record"
    steps = [f"{step} {i} {name}" for i, name in enumerate(schedule)] + ["end"]
    if mode == "train":
        steps += [f"backward {i}" for i in reversed(range(len(schedule)))]
    return Plan(
        version=__version__,
        problem=problem,
        policy="default",
        solver="none",
        promised=Promise(UNLIMITED, 0.0),
        bound=None,
        costs="modelled",
        resident={},
        choices=choices,
        schedule=tuple(steps),
    ).signed()
