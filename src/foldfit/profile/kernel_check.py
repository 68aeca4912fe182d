"""Checks a kernel on this device: a sub-module's output by it, and its gradients where it has a backward, against the reference in fp64."""

import copy
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from foldfit.cost.sizes import shapes_of
from foldfit.cost.trust import kind_mark, mark
from foldfit.model import SUB_MODULES, SubModule
from foldfit.plans import Choice
from foldfit.problem import Problem, Stack
from foldfit.runtime import apply
from foldfit.runtime.apply import Call, State
from foldfit.runtime.executor import matmul_precision
from foldfit.runtime.parameters import Gradients
from foldfit.runtime.trunk import DTYPES
from foldfit.stacks import STACKS, SubModuleSpec, stack_spec
from foldfit.stacks.spec import Axis, Kernel

TOLERANCE = {"fp32": 1e-5, "tf32": 3e-3, "bf16": 5e-2, "fp16": 5e-3}
"""||x - x64|| / ||x64|| of a whole sub-module's output and gradients, by precision."""

N_SEQ, N_RES, BEYOND = 40, 70, 3
"""Sizes that no tile divides; so much beyond the length from which on a kernel runs by other code."""
FAINT = 1 / 16
"""Of what a sub-module only writes, and of gradients handed in of what it only reads: the update that is added to them rounds less."""
ROWS = 16
"""That the reference takes at a time: in fp64 the logits of all would be the memory of a large card."""


@dataclass(frozen=True)
class Case:
    """What is checked: a sub-module by a kernel in a precision, and the lengths of the state's axes."""

    sub: SubModuleSpec
    kernel: str
    precision: str
    axes: dict[str, tuple[int, ...]]
    channels: dict[str, int]

    @property
    def mark(self) -> str:
        """Those with the same are trusted together (cost/trust.py)."""
        return mark(self.kernel, self.sub, self.precision)

    @property
    def length(self) -> int:
        """Of the axis that the sub-module does not map over."""
        name, axis = self.sub.reads[0]
        return self.axes[name][axis - 1]


@dataclass(frozen=True)
class Verdict:
    """Relative errors of a sub-module by a kernel: of its output, and of the gradients of what it read and of all its parameters
    together, 0 where the kernel has none."""

    kernel: str
    sub_module: str
    kind: str
    precision: str
    length: int
    output: float
    inputs: float
    parameters: float
    raised: str = ""
    """What it raised instead of a result."""

    @property
    def trusted(self) -> bool:
        tolerance = TOLERANCE[self.precision]
        # Of a ReLU's inputs a part like the rounding error lands on the other side of zero, each with a gradient that is all
        # wrong: together they are off by that part's square root.
        of_gradients = max(tolerance, tolerance**0.5 / 3) if self.kind == "transition" else tolerance
        # PyTorch's layer norm sums its parameters' gradients in 16 bits on a processor: they are to be numbers, and plans need it.
        of_parameters = 0.5 if self.kernel == "reference" else of_gradients
        return self.output <= tolerance and self.inputs <= of_gradients and self.parameters <= of_parameters  # NaN is not


def cases(device_type: str, precisions: list[str], widths: dict[str, int] | None = None) -> Iterator[Case]:
    """Of every kernel that this type of device can run, on every kind of sub-module, once for each way through its code; with `widths`,
    of the sub-modules that those make other than the published ones."""
    seen = set()
    for name in STACKS:
        own = {k: n for k, n in (widths or {}).items() if k in stack_spec(name).widths}
        problem = Problem(stacks=(Stack(name, 1, 0 if name == "pairformer" else N_SEQ, own),), n_res=N_RES, memory=1)
        spec, shapes = shapes_of(problem, problem.stacks[0])
        for sub in spec.sub_modules:
            if widths and mark("", sub, "") == kind_mark("", sub, ""):
                continue
            for kernel, by_device in sub.kernels.items():
                cost = by_device.get(device_type)
                if cost is None or not here(cost) or not cost.made_for(sub.widths):
                    continue
                for precision in precisions:
                    key = (sub.kind, tuple(sub.widths.values()), sub.writes[1], kernel, precision)
                    if precision not in cost.precisions or key in seen:
                        continue
                    seen.add(key)
                    for least in (cost.shortest, *(n + BEYOND for p, n in cost.turns if p == precision)):
                        axes = stretched(shapes.axes, sub.reads[0], least, cost.multiple)
                        yield Case(sub, kernel, precision, axes, shapes.channels)


def here(kernel: Kernel) -> bool:
    """Whether the package that it needs is installed."""
    return not kernel.package or importlib.util.find_spec(kernel.package) is not None


def stretched(axes: dict[str, tuple[int, ...]], main: Axis, least: int, multiple: int) -> dict[str, tuple[int, ...]]:
    """The same with what is as long as the axis that `main` does not map over made so long at the least, and a multiple."""
    other = axes[main[0]][main[1] - 1]
    longer = {other: -(-max(other, least) // multiple) * multiple}
    return {name: tuple(longer.get(n, n) for n in lengths) for name, lengths in axes.items()}


def check(case: Case, device: str) -> Verdict:
    """On this type of device. Whatever a kernel raises is its verdict: that it does not run here is what one wants to know."""
    sub = case.sub
    try:
        (output, inputs, parameters), raised = errors_of(case, device), ""
    except Exception as error:
        output = inputs = parameters = float("nan")
        raised = f"{type(error).__name__}: {error}".splitlines()[0]
    return Verdict(case.kernel, sub.name, sub.kind, case.precision, case.length, output, inputs, parameters, raised)


def errors_of(case: Case, device: str) -> list[float]:
    """Of the output, in place or recorded, the gradients of what was read, and the parameters'."""
    sub, cost = case.sub, case.sub.kernels[case.kernel][device]
    module, state, masks, grads = given(case, device)
    rows = state[sub.reads[0][0]].shape[1 + sub.reads[0][1]]
    whole = Choice(case.kernel, rows, state[sub.shares[0]].shape[1 + sub.shares[1]] if sub.shares else 0)
    with matmul_precision(case.precision):
        added = in_place(module, whole, state, masks)
        got: tuple[Tensor, ...] = (added,)
        if cost.update.record and case.precision in cost.recorded:
            got = results(module, whole, state, masks, grads)
    double = torch.float64
    exact = Choice("reference", ROWS, ROWS if sub.shares else 0, recompute=True)
    expected = results(
        copy.deepcopy(module).to(double), exact, *({n: x.to(double) for n, x in each.items()} for each in (state, masks, grads))
    )
    errors = [(g.double() - e).norm() / e.norm() for g, e in zip((added, *got), expected[:1] + expected, strict=False)]
    return [torch.stack(errors[:2]).max().item(), *(e.item() for e in errors[2:]), 0.0, 0.0][:3]  # NaN is the largest


def given(case: Case, device: str) -> tuple[SubModule, State, State, State]:
    """The sub-module; the state, its masks and gradients of its new versions, random."""
    sub, dtype = case.sub, DTYPES[case.precision]
    torch.manual_seed(0)
    read = {name for name, _ in (*sub.reads, *((sub.shares,) if sub.shares else ()))}
    used = sorted(read | {sub.writes[0]})

    def some(name: str, faint: bool) -> Tensor:
        return (torch.randn(1, *case.axes[name], case.channels[name]) * (FAINT if faint else 1)).to(device, dtype)

    state = {n: some(n, n not in read) for n in used}
    masks = {n: (torch.rand(1, *case.axes[n]) > 0.1).to(device, dtype) for n in used}
    grads = {n: some(n, n != sub.writes[0]) for n in used}
    return SUB_MODULES[sub.kind](sub).to(device, dtype), state, masks, grads


def in_place(module: SubModule, choice: Choice, state: State, masks: State) -> Tensor:
    """The update of a run without gradients, flat."""
    name = module.spec.writes[0]
    target = state[name].clone()
    apply.forward(Call(module, choice, masks), {**state, name: target}, target)
    return (target - state[name]).flatten()


def results(module: SubModule, choice: Choice, state: State, masks: State, grads: State) -> tuple[Tensor, Tensor, Tensor]:
    """The update, the gradients of what was read beyond those handed in, the parameters' gradients; flat."""
    call = Call(module, choice, masks)
    version, kept = apply.record(call, state)
    gradients, after = Gradients(list(module.parameters())), {n: g.clone() for n, g in grads.items()}
    apply.backward(call, state, kept, after, gradients)
    update = version - state[module.spec.writes[0]]
    return update.flatten(), torch.cat([(after[n] - grads[n]).flatten() for n in grads]), gradients.flat
