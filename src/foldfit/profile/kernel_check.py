"""Checks a kernel on this device: a sub-module's output by it, and its gradients where it has a backward, against the reference in fp64."""

import copy
import importlib.util
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
from foldfit.stacks.spec import Axis, Kernel

TOLERANCE = {"fp32": 1e-5, "tf32": 3e-3, "bf16": 5e-2, "fp16": 5e-3}
"""||x - x64|| / ||x64|| of a whole sub-module's output and gradients, by precision."""

N_SEQ, N_RES = 40, 70
"""Sizes that no tile divides."""


@dataclass(frozen=True)
class Verdict:
    """Relative errors of a sub-module by a kernel: of its output, and of the gradients of what it read and of all its parameters
    together, 0 where the kernel has none."""

    sub: SubModuleSpec
    kernel: str
    precision: str
    output: float
    inputs: float
    parameters: float
    optional: bool
    """Whether the kernel is of a package that foldfit does not need."""

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
                if cost is None or not here(cost) or not cost.made_for(sub.widths):
                    continue
                axes = stretched(shapes.axes, sub.reads[0], cost)
                for precision in precisions:
                    key = (sub.kind, tuple(sub.widths.values()), sub.writes[1], kernel, precision)
                    if precision not in cost.precisions or key in seen:
                        continue
                    seen.add(key)
                    yield check(sub, cost, axes, shapes.channels, kernel, precision, device_type)


def here(kernel: Kernel) -> bool:
    """Whether the package that it needs is installed."""
    return not kernel.package or importlib.util.find_spec(kernel.package) is not None


def stretched(axes: dict[str, tuple[int, ...]], main: Axis, kernel: Kernel) -> dict[str, tuple[int, ...]]:
    """The same with what is as long as the axis that `main` does not map over made as long as the kernel wants."""
    other = axes[main[0]][main[1] - 1]
    longer = {other: -(-max(other, kernel.shortest) // kernel.multiple) * kernel.multiple}
    return {name: tuple(longer.get(n, n) for n in lengths) for name, lengths in axes.items()}


def check(
    sub: SubModuleSpec, cost: Kernel, axes: dict[str, tuple[int, ...]], channels: dict[str, int], kernel: str, precision: str, device: str
) -> Verdict:
    dtype = DTYPES[precision]
    torch.manual_seed(0)
    used = {name for name, _ in (*sub.reads, sub.writes, *((sub.shares,) if sub.shares else ()))}
    state = {n: torch.randn(1, *axes[n], channels[n]).to(device, dtype) for n in sorted(used)}
    masks = {n: (torch.rand(1, *axes[n]) > 0.1).to(device, dtype) for n in sorted(used)}
    grads = {n: torch.randn(1, *axes[n], channels[n]).to(device, dtype) for n in sorted(used)}
    module = SUB_MODULES[sub.kind](sub).to(device, dtype)
    recorded = bool(cost.update.record) and precision in cost.recorded
    with matmul_precision(precision):
        got = results(module, kernel, state, masks, grads) if recorded else (plain(module, kernel, state, masks),)
    double = torch.float64
    expected = results(
        copy.deepcopy(module).to(double), "reference", *({n: x.to(double) for n, x in each.items()} for each in (state, masks, grads))
    )
    errors = [((g.double() - e).norm() / e.norm()).item() for g, e in zip(got, expected, strict=False)]
    output, inputs, parameters = [*errors, 0.0, 0.0][:3]
    return Verdict(sub, kernel, precision, output, inputs, parameters, bool(cost.package))


def call_of(module: SubModule, kernel: str, state: State, masks: State) -> Call:
    """On all rows at once."""
    sub = module.spec
    rows = state[sub.reads[0][0]].shape[1 + sub.reads[0][1]]
    return Call(module, Choice(kernel, rows, state[sub.shares[0]].shape[1 + sub.shares[1]] if sub.shares else 0), masks)


def plain(module: SubModule, kernel: str, state: State, masks: State) -> Tensor:
    """The update alone, flat."""
    target = torch.zeros_like(state[module.spec.writes[0]])
    apply.forward(call_of(module, kernel, state, masks), state, target)
    return target.flatten()


def results(module: SubModule, kernel: str, state: State, masks: State, grads: State) -> tuple[Tensor, Tensor, Tensor]:
    """The update, the gradients of what was read beyond those handed in, the parameters' gradients; flat."""
    call = call_of(module, kernel, state, masks)
    version, kept = apply.record(call, state)
    gradients, after = Gradients(list(module.parameters())), {n: g.clone() for n, g in grads.items()}
    apply.backward(call, state, kept, after, gradients)
    update = version - state[module.spec.writes[0]]
    return update.flatten(), torch.cat([(after[n] - grads[n]).flatten() for n in grads]), gradients.flat
