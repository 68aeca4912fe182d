"""Checks a kernel on this device: a sub-module's output and gradients by it against the reference in fp64."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from foldfit.cost.sizes import shapes_of
from foldfit.model import SUB_MODULES, SubModule
from foldfit.plans import Choice
from foldfit.problem import Problem, Stack
from foldfit.runtime import apply
from foldfit.runtime.apply import Call, State
from foldfit.runtime.executor import matmul_precision
from foldfit.runtime.parameters import Gradients
from foldfit.runtime.trunk import DTYPES
from foldfit.stacks import STACKS, SubModuleSpec

TOLERANCE = {"fp32": 1e-5, "tf32": 3e-3, "bf16": 5e-2, "fp16": 5e-3}
"""||x - x64|| / ||x64|| of a whole sub-module's output and gradients, by precision."""

N_SEQ, N_RES = 40, 70
"""Sizes that no tile divides."""


@dataclass(frozen=True)
class Verdict:
    """Relative errors of a sub-module by a kernel: of its output, of what it read, of all its parameters together."""

    sub: SubModuleSpec
    kernel: str
    precision: str
    output: float
    inputs: float
    parameters: float

    @property
    def trusted(self) -> bool:
        tolerance = TOLERANCE[self.precision]
        # Of a ReLU's inputs a part like the rounding error lands on the other side of zero, each with a gradient that is all
        # wrong: together they are off by that part's square root.
        of_gradients = max(tolerance, tolerance**0.5 / 3) if self.sub.kind == "transition" else tolerance
        return self.output <= tolerance and max(self.inputs, self.parameters) <= of_gradients  # NaN is not


def verdicts(device_type: str, precisions: list[str]) -> Iterator[Verdict]:
    """Of every kernel that this type of device can run, on every kind of sub-module, once."""
    seen = set()
    for name in STACKS:
        problem = Problem(stacks=(Stack(name, 1, 0 if name == "pairformer" else N_SEQ),), n_res=N_RES, memory=1)
        spec, shapes = shapes_of(problem, problem.stacks[0])
        for sub in spec.sub_modules:
            for kernel, by_device in sub.kernels.items():
                cost = by_device.get(device_type)
                odd = cost and shapes.axes[sub.reads[0][0]][sub.reads[0][1] - 1] % cost.multiple
                for precision in precisions:
                    key = (sub.kind, tuple(sub.widths.values()), sub.writes[1], kernel, precision)
                    if cost is None or odd or not cost.update.record or precision not in cost.precisions or key in seen:
                        continue
                    seen.add(key)
                    yield check(sub, shapes.axes, shapes.channels, kernel, precision, device_type)


def check(
    sub: SubModuleSpec, axes: dict[str, tuple[int, ...]], channels: dict[str, int], kernel: str, precision: str, device: str
) -> Verdict:
    dtype = DTYPES[precision]
    torch.manual_seed(0)
    used = {name for name, _ in (*sub.reads, sub.writes, *((sub.shares,) if sub.shares else ()))}
    state = {n: torch.randn(1, *axes[n], channels[n]).to(device, dtype) for n in sorted(used)}
    masks = {n: (torch.rand(1, *axes[n]) > 0.1).to(device, dtype) for n in sorted(used)}
    grads = {n: torch.randn(1, *axes[n], channels[n]).to(device, dtype) for n in sorted(used)}
    module = SUB_MODULES[sub.kind](sub).to(device, dtype)
    with matmul_precision(precision):
        got = results(module, kernel, state, masks, grads)
    double = torch.float64
    expected = results(
        copy.deepcopy(module).to(double), "reference", *({n: x.to(double) for n, x in each.items()} for each in (state, masks, grads))
    )
    errors = [((g.double() - e).norm() / e.norm()).item() for g, e in zip(got, expected, strict=True)]
    return Verdict(sub, kernel, precision, *errors)


def results(module: SubModule, kernel: str, state: State, masks: State, grads: State) -> tuple[Tensor, Tensor, Tensor]:
    """The update, the gradients of what was read beyond those handed in, the parameters' gradients; flat."""
    sub = module.spec
    rows = state[sub.reads[0][0]].shape[1 + sub.reads[0][1]]
    share_rows = state[sub.shares[0]].shape[1 + sub.shares[1]] if sub.shares else 0
    call = Call(module, Choice(kernel, rows, share_rows), masks)
    version, kept = apply.record(call, state)
    gradients, after = Gradients(list(module.parameters())), {n: g.clone() for n, g in grads.items()}
    apply.backward(call, state, kept, after, gradients)
    update = version - state[sub.writes[0]]
    return update.flatten(), torch.cat([(after[n] - grads[n]).flatten() for n in grads]), gradients.flat
