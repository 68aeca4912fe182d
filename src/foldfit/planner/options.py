"""The option table of a problem: for every sub-module, every kernel, slice and keep-or-recompute, with bytes and seconds."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isqrt

import msgspec

from foldfit.cost.collectives import all_gather
from foldfit.cost.database import Corrections, find_costs
from foldfit.cost.devices import GRAPH_CALL, Device
from foldfit.cost.memory import Bytes, Setting, shared_bytes, sub_module_bytes
from foldfit.cost.seconds import sub_module_seconds
from foldfit.cost.sizes import Shapes, shapes_of
from foldfit.cost.trust import distrusted, mark
from foldfit.planner.layouts import Passage, passages
from foldfit.plans import Choice
from foldfit.problem import Problem, Stack
from foldfit.stacks import StackSpec, SubModuleSpec

CUDA_ALIGN = 512
"""Bytes: PyTorch's caching allocator rounds every tensor up to it."""

LONGEST, MOST_SLICES = 0.05, 32
"""Seconds and slices of an option that profiling still takes."""


@dataclass(frozen=True)
class Option:
    """A choice with what it costs: bytes as in cost/memory.py, seconds forward and backward."""

    choice: Choice
    bytes: Bytes
    seconds: float
    back_seconds: float
    recordable: bool
    measured: bool = False
    """Whether its seconds come from measurements of this kernel."""
    exposed: float = 0.0
    back_exposed: float = 0.0
    """Seconds, of those, of collectives between ranks."""


@dataclass(frozen=True)
class SubModuleOptions:
    spec: SubModuleSpec
    written: int
    """Bytes by which a recorded run grows the block: of the tensor it writes, and of what relays leave."""
    final: bool
    """Whether they are the block's result."""
    options: tuple[Option, ...]


@dataclass(frozen=True)
class StackOptions:
    """A stack's part of the option table. `state`: bytes of its state tensors, by name, the most that a rank has."""

    spec: StackSpec
    blocks: int
    shapes: Shapes
    state: dict[str, int]
    sub_modules: tuple[SubModuleOptions, ...]


@dataclass(frozen=True)
class OptionTable:
    """What a policy chooses from."""

    problem: Problem
    device: Device
    stacks: tuple[StackOptions, ...]


@lru_cache
def slice_rows(total: int) -> tuple[int, ...]:
    """Every slice worth having, largest first: for each number of slices the fewest rows that give it."""
    root = isqrt(total)
    few = {-(-total // count) for count in range(1, root + 2)}
    many = {rows for rows in range(1, root + 1) if -(-total // -(-total // rows)) == rows}
    return tuple(sorted(few | many, reverse=True))


def option_table(problem: Problem, device: Device) -> OptionTable:
    """All options of all stacks, with the device's costs. Raises NotSupported for a precision that it does not have, BadInput
    for a cost database of another one."""
    device.peak(problem.precision)
    if problem.launch == "graph":
        device = replace(device, launch_seconds=GRAPH_CALL)
    costs = find_costs(device)
    return OptionTable(problem, device, tuple(stack_options(problem, stack, device, costs) for stack in problem.stacks))


def setting_of(problem: Problem, shapes: Shapes) -> Setting:
    stored = {"fp32": "fp32", "tf32": "fp32"}.get(problem.precision, problem.precision)
    return Setting(
        shapes,
        problem.itemsize,
        problem.batch,
        cast=stored != problem.parameters,
        dropout=problem.dropout,
        align=CUDA_ALIGN if problem.device_type == "cuda" else 1,
    )


def stack_options(problem: Problem, stack: Stack, device: Device, costs: Corrections | None) -> StackOptions:
    spec, shapes = shapes_of(problem, stack)
    setting = setting_of(problem, shapes)
    state = {name: problem.batch * shapes.own_elements(name) * problem.itemsize for name in shapes.axes}
    subs = []
    for sub, passage in zip(spec.sub_modules, passages(spec, shapes, device, problem.itemsize, problem.batch, setting.align), strict=True):
        here = replace(setting, shapes=replace(shapes, layout=passage.layout))
        options = (o for kernel in sub.kernels for o in kernel_options(sub, kernel, problem, here, device, costs))
        if problem.axial > 1:
            options = (over_ranks(o, sub, passage, here, device) for o in options)
        subs.append(SubModuleOptions(sub, passage.written, passage.final, tuple(options)))
    return StackOptions(spec, stack.blocks, shapes, state, tuple(subs))


def over_ranks(option: Option, sub: SubModuleSpec, passage: Passage, setting: Setting, device: Device) -> Option:
    """The same with the relays around it, and with what ranks share gathered and its gradient summed."""
    ranks, batch = setting.shapes.ranks, setting.batch
    size = setting.itemsize * setting.shapes.own_elements(sub.writes[0])
    shared = shared_bytes(sub, setting)
    gather = batch * sum(all_gather(device, ranks, each) for each in shared)
    exposed = passage.seconds + gather
    summed = batch * sum(all_gather(device, ranks, each) for each in shared[: len(shared) - sub.shared_masks])
    back_exposed = passage.back_seconds + summed + (gather if option.choice.recompute else 0.0)
    return replace(
        option,
        choice=msgspec.structs.replace(option.choice, layout=passage.text),
        bytes=passage.around(option.bytes, batch * size),
        seconds=option.seconds + exposed,
        back_seconds=option.back_seconds + back_exposed,
        exposed=exposed,
        back_exposed=back_exposed,
    )


def kernel_options(
    sub: SubModuleSpec, name: str, problem: Problem, setting: Setting, device: Device, costs: Corrections | None
) -> Iterator[Option]:
    """Nothing where the kernel does not run on this device, in this precision or at these widths."""
    kernel = sub.kernels[name].get(problem.device_type)
    if kernel is None or name in device.without or problem.precision not in kernel.precisions:
        return
    if mark(name, sub, problem.precision) in distrusted(device.name):
        return
    tensor, axis = sub.reads[0]
    lengths = setting.shapes.axes[tensor]
    if lengths[axis - 1] % kernel.multiple or not all(low <= sub.widths[role] <= high for role, low, high in kernel.within):
        return
    total = setting.shapes.own(tensor, axis)
    shared = setting.shapes.own(*sub.shares) if sub.shares else 0
    caution = costs.caution(sub, problem.precision, problem.launch, device) if costs else 1.0
    for rows in slice_rows(total):
        # As many rows of the share at a time as of the update, in proportion: its moments are the smaller ones.
        choice = Choice(name, rows, -(-rows * shared // total) if shared else 0)
        modelled = sub_module_seconds(sub, kernel, choice, setting, device, problem.precision)
        found = costs.seconds(sub, choice, setting, problem.precision, problem.launch, device, modelled) if costs else None
        forward, back = found or (caution * modelled[0], caution * modelled[1])
        recordable, measured = bool(kernel.update.record), found is not None
        yield Option(choice, sub_module_bytes(sub, kernel, choice, setting), forward, back, recordable, measured)
        if problem.mode == "train":
            again = Choice(name, rows, choice.share_rows, True)
            more = sub_module_seconds(sub, kernel, again, setting, device, problem.precision)[1] - modelled[1]
            back += more * forward / modelled[0]
            yield Option(again, sub_module_bytes(sub, kernel, again, setting), forward, back, recordable, measured)


def worth_measuring(table: OptionTable) -> Iterator[tuple[StackOptions, SubModuleOptions, Option]]:
    """For `foldfit profile`: of every sub-module and kernel the options with all rows, half of them, a quarter ... that fit the
    memory and that the model gives less than LONGEST."""
    for stack in table.stacks:
        room = table.problem.memory - 4 * sum(stack.state.values())
        for sub in stack.sub_modules:
            rows: dict[str, float] = {}
            fewest = max(o.choice.rows for o in sub.options) / MOST_SLICES
            for option in sorted(sub.options, key=lambda o: (o.choice.kernel, -o.choice.rows)):
                choice = option.choice
                fits = max(option.bytes.back, option.bytes.inter) <= room and option.seconds + option.back_seconds < LONGEST
                if not choice.recompute and fits and fewest <= choice.rows <= rows.get(choice.kernel, float("inf")):
                    rows[choice.kernel] = choice.rows // 2
                    yield stack, sub, option
