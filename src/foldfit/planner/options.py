"""The option table of a problem: for every sub-module, every kernel, slice and keep-or-recompute, with bytes and seconds."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from math import isqrt

import msgspec

from foldfit.cost.channels import channel_seconds
from foldfit.cost.collectives import SLOWED, gather, reduce_scatter
from foldfit.cost.database import find_costs
from foldfit.cost.devices import COLLECTIVE_CALL, GRAPH_COLLECTIVE, HOSTS_TOGETHER, Device
from foldfit.cost.host import away_seconds
from foldfit.cost.interpolate import Corrections
from foldfit.cost.memory import Setting, away_bytes, shared_bytes, sub_module_bytes
from foldfit.cost.seconds import Seconds, sub_module_seconds, updating
from foldfit.cost.sizes import Shapes, shapes_of
from foldfit.cost.trust import trusted
from foldfit.errors import BadInput, NotSupported
from foldfit.planner.calls import calls
from foldfit.planner.channels import channel_options, fits_layout
from foldfit.planner.layouts import Passage, loosened, passages, wanted
from foldfit.planner.option import Option
from foldfit.planner.pieces import around, piece_options
from foldfit.plans import Choice
from foldfit.problem import Problem, Stack
from foldfit.stacks import StackSpec, SubModuleSpec, check_together, stack_spec
from foldfit.stacks.spec import Kernel

CUDA_ALIGN = 512
"""Bytes: PyTorch's caching allocator rounds every tensor up to it."""

MANY = 2**17
"""Rows that every slice is an option of."""

SMALL = 16
"""A state tensor of fewer bytes than the largest one's by this stays on the device."""


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
    clock: int | None = None
    """Whose seconds its options have, where it is one clock's alone (planner/clocks.py)."""
    loose: "OptionTable | None" = None
    """The same with fewer relays, where sub-modules that exchange channels can do without."""

    def with_stacks(self, change: "Callable[[StackOptions], StackOptions]") -> "OptionTable":
        """With every stack changed, those of `loose` too."""
        loose = self.loose.with_stacks(change) if self.loose else None
        return replace(self, stacks=tuple(map(change, self.stacks)), loose=loose)

    def within(self, memory: int) -> "OptionTable":
        """In so many bytes."""
        problem = msgspec.structs.replace(self.problem, memory=memory)
        return replace(self, problem=problem, loose=self.loose.within(memory) if self.loose else None)

    def having(self, choices: Mapping[str, Sequence[Choice]]) -> "OptionTable":
        """The one of the two whose layouts these are."""
        if self.loose:
            theirs = {tuple(sub.options[0].choice.layout for sub in stack.sub_modules) for stack in self.loose.stacks}
            if all(tuple(c.layout for c in chosen) in theirs for chosen in choices.values()):
                return self.loose
        return self


@lru_cache
def slice_rows(total: int) -> tuple[int, ...]:
    """Every slice worth having, largest first: for each number of slices the fewest rows that give it. Of more than `MANY` rows, as
    many of few slices and as many of few rows as `MANY` have."""
    root = isqrt(min(total, MANY))
    few = {-(-total // count) for count in range(1, root + 2)}
    many = {rows for rows in range(1, root + 1) if -(-total // -(-total // rows)) == rows}
    return tuple(sorted(few | many, reverse=True))


def thinnest(total: int) -> tuple[int, ...]:
    """Whole, and row by row: no other slices of a run that is not recorded take less memory than both."""
    return (total, 1) if total > 1 else (1,)


Rows = Callable[[int], tuple[int, ...]]
"""Of all rows, the rows of a slice that are options."""


def option_table(problem: Problem, device: Device, rows: Rows = slice_rows) -> OptionTable:
    """All options of all stacks, with the device's costs. Raises NotSupported for a precision that it does not have and a
    sub-module without a kernel, BadInput for a cost database of another one, and for stacks in a row that do not go together."""
    device.peak(problem.precision)
    check_together([stack_spec(s.name, **s.widths) for s in problem.stacks])
    check_sizes(problem)
    costs = find_costs(device)

    def table(loose: bool) -> OptionTable:
        return OptionTable(problem, device, tuple(stack_options(problem, stack, device, costs, rows, loose) for stack in problem.stacks))

    return replace(table(False), loose=table(True) if problem.axial > 1 and problem.mode == "infer" else None)


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


def check_sizes(problem: Problem) -> None:
    """Raises BadInput where stacks in a row want a tensor that they share in different sizes."""
    known: dict[str, tuple[int, ...]] = {}
    for stack in problem.stacks:
        for name, lengths in shapes_of(problem, stack)[1].axes.items():
            if known.setdefault(name, lengths) != lengths:
                raise BadInput(
                    f"{stack.name}: expected {name} of {known[name]}, as in the stacks before, got {lengths}: give all of them as many rows"
                )


def stack_options(problem: Problem, stack: Stack, device: Device, costs: Corrections | None, rows: Rows, loose: bool) -> StackOptions:
    """`loose`: what can exchange channels does, where that spares a relay."""
    spec, shapes = shapes_of(problem, stack)
    setting = setting_of(problem, shapes)
    state = {name: problem.batch * shapes.own_elements(name) * problem.itemsize for name in shapes.axes}
    subs = []
    computing = {sub.name: about(sub, problem, setting, device) for sub in spec.sub_modules} if problem.axial > 1 else {}
    ways = passages(loosened(spec) if loose else spec, shapes, device, problem.itemsize, problem.batch, setting.align, computing)
    for sub, passage in zip(spec.sub_modules, ways, strict=True):
        here = replace(setting, shapes=replace(shapes, layout=passage.layout))
        options = [o for kernel in sub.kernels for o in kernel_options(sub, kernel, problem, here, device, costs, rows)]
        if not options:
            none = f"{sub.name}: no kernel in {problem.precision} on {device.name}"
            raise NotSupported(
                f"{none} that is trusted there and made for these sizes: foldfit doctor --kernels checks those of this machine"
            )
        if away := tuple(name for name in hostable(problem) if name in state):
            options = [o for option in options for o in (option, *on_host(option, sub, away, problem, here, device))]
        if problem.axial > 1:
            kernels = {name: on[problem.device_type] for name, on in sub.kernels.items() if problem.device_type in on}
            exchanging = list(channel_options(options, sub, kernels, here, device, problem))
            options += list(piece_options(options, sub, kernels, here, device, problem.launch))
            options = [o for o in options + exchanging if fits_layout(o, sub, passage.layout)]
            gathered = gathering(sub, here, device)
            options = [over_ranks(o, sub, passage, here, device, gathered, problem) for o in options]
        subs.append(SubModuleOptions(sub, passage.written, passage.final, tuple(options)))
    return StackOptions(spec, stack.blocks, shapes, state, tuple(subs))


def about(sub: SubModuleSpec, problem: Problem, setting: Setting, device: Device) -> float:
    """Seconds of its forward on a rank, in one slice, by the model: of the fastest kernel."""
    here = replace(setting, shapes=replace(setting.shapes, layout=wanted(sub)))
    rows, shared = here.shapes.own(*sub.reads[0]), here.shapes.own(*sub.shares) if sub.shares else 0
    kernels = {name: on[problem.device_type] for name, on in sub.kernels.items() if problem.device_type in on}
    return min(
        sub_module_seconds(sub, kernel, Choice(name, rows, shared), here, device, problem.precision).forward
        for name, kernel in kernels.items()
    )


def hostable(problem: Problem) -> tuple[str, ...]:
    """State tensors that an inference may have on the host: those of two axes that are not small beside the largest."""
    if not problem.host_memory or problem.mode == "train":
        return ()
    sizes: dict[str, int] = {}
    for stack in problem.stacks:
        _, shapes = shapes_of(problem, stack)
        sizes |= {name: shapes.elements(name) for name, lengths in shapes.axes.items() if len(lengths) == 2}
    return tuple(sorted(name for name, size in sizes.items() if SMALL * size >= max(sizes.values())))


def subsets(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The empty one first."""
    return [some for size in range(len(names) + 1) for some in combinations(names, size)]


def on_host(
    option: Option, sub: SubModuleSpec, names: tuple[str, ...], problem: Problem, setting: Setting, device: Device
) -> Iterator[Option]:
    """The same with some of `names` on the host. What the sub-module does not touch costs it nothing there. What is shared of another
    tensor than the one that is mapped comes in slices of its own, as large as they may be beside the update's."""
    kernel = sub.kernels[option.choice.kernel][problem.device_type]
    model = sub_module_seconds(sub, kernel, option.choice, setting, device, problem.precision).by(problem.launch)[0]
    known: dict[tuple[str, ...], Option] = {(): option}
    for some in subsets(names)[1:]:
        own = tuple(name for name in some if name in sub.touches)
        choice = msgspec.structs.replace(option.choice, host=" ".join(some))
        if own not in known:
            if sub.shares and sub.shares[0] in own and sub.shares[0] != sub.reads[0][0]:
                choice = beside_update(sub, kernel, choice, setting)
            seconds, exposed = away_seconds(sub, kernel, choice, setting, device, problem.precision, option.seconds / model)
            found = replace(option.bytes, forward=max(away_bytes(sub, kernel, choice, setting)))
            known[own] = replace(option, choice=choice, bytes=found, seconds=seconds, exposed=exposed)
        yield replace(known[own], choice=msgspec.structs.replace(known[own].choice, host=" ".join(some)))


def beside_update(sub: SubModuleSpec, kernel: Kernel, choice: Choice, setting: Setting) -> Choice:
    """With the most rows of the share at a time that take no more than the update."""
    assert sub.shares

    def fits(rows: int) -> bool:
        sharing, updating = away_bytes(sub, kernel, msgspec.structs.replace(choice, share_rows=rows), setting)
        return sharing <= updating

    rows = slice_rows(setting.shapes.own(*sub.shares))
    return msgspec.structs.replace(choice, share_rows=rows[min(bisect_left(rows, True, key=fits), len(rows) - 1)])


def gathering(sub: SubModuleSpec, setting: Setting, device: Device) -> tuple[float, float]:
    """Seconds of gathering what ranks share, and of summing its gradient."""
    if not sub.shares:
        return 0.0, 0.0
    ranks, each, rows = setting.shapes.ranks, shared_bytes(sub, setting), setting.shapes.axes[sub.shares[0]][sub.shares[1]]
    shared = sum(gather(device, ranks, one, rows) for one in each)
    summed = sum(reduce_scatter(device, ranks, one, rows) for one in each[: len(each) - sub.shared_masks])
    return setting.batch * shared, setting.batch * summed


def over_ranks(
    option: Option, sub: SubModuleSpec, passage: Passage, setting: Setting, device: Device, ways: tuple[float, float], problem: Problem
) -> Option:
    """The same with the relays around it, and with what ranks share gathered and its gradient summed, in the seconds `ways`, or in
    pieces, which travel while it updates."""
    size = setting.itemsize * setting.shapes.own_elements(sub.writes[0])
    shared, summed, way, back_way = ways[0], ways[1] + (ways[0] if option.choice.recompute else 0.0), 0.0, 0.0
    if option.choice.piece_rows:
        shared, summed, way, back_way = 0.0, 0.0, *around(option, sub, setting, device)
    kernel = sub.kernels[option.choice.kernel][problem.device_type]
    if option.choice.channels:
        _, shared, way = channel_seconds(sub, kernel, option.choice, setting, device, problem.precision)
    part, ((seconds, back_seconds), host) = updating(sub, kernel, option.choice, setting, device, problem.precision), option.clocks
    cuda, (number, back_number) = problem.device_type == "cuda", calls(option.choice, sub, passage, setting)
    in_graph = GRAPH_COLLECTIVE if cuda and problem.launch == "graph" else 0.0
    call, together = (COLLECTIVE_CALL, HOSTS_TOGETHER) if cuda else (0.0, 1.0)
    # The relays of what the sub-module does not touch are hidden behind it.
    moving, back_moving, slower = passage.hidden + way, passage.hidden + back_way, SLOWED if cuda else 0.0
    left, back_left = hardly_hidden(moving, seconds * part), hardly_hidden(back_moving, back_seconds * part)
    exposed = passage.seconds + shared + left + in_graph * number
    back_exposed = passage.back_seconds + summed + back_left + in_graph * back_number
    taken = Seconds(
        seconds + exposed + slower * (moving - left),
        back_seconds + back_exposed + slower * (back_moving - back_left),
        together * (host[0] + call * number),
        together * (host[1] + call * back_number),
    )
    seconds, back_seconds = taken.by(problem.launch)
    return replace(
        option,
        choice=msgspec.structs.replace(option.choice, layout=passage.text),
        bytes=passage.around(option.bytes, setting.batch * size),
        seconds=seconds,
        back_seconds=back_seconds,
        clocks=taken.clocks,
        exposed=exposed,
        back_exposed=back_exposed,
    )


def hardly_hidden(moving: float, updating: float) -> float:
    """Of so many seconds of relays and pieces, one after the other, what is left when a sub-module has updated, beside which they go on."""
    return max(0.0, moving - updating)


def kernel_options(
    sub: SubModuleSpec, name: str, problem: Problem, setting: Setting, device: Device, costs: Corrections | None, each: Rows = slice_rows
) -> Iterator[Option]:
    """In slices of `each`, by default of all worth having. Nothing where the kernel does not run on this device, in this
    precision or at these widths."""
    kernel = sub.kernels[name].get(problem.device_type)
    if kernel is None or name in device.without or problem.precision not in kernel.precisions:
        return
    if not trusted(name, kernel, sub, problem.precision, device):
        return
    tensor, axis = sub.reads[0]
    lengths = setting.shapes.axes[tensor]
    other = lengths[axis - 1]
    if other % kernel.multiple or other < kernel.shortest or not kernel.made_for(sub.widths):
        return
    total = setting.shapes.own(tensor, axis)
    shared = setting.shapes.own(*sub.shares) if sub.shares else 0
    measured = costs is not None and costs.knows(sub, name, problem.precision, problem.launch, device)
    caution = costs.caution(sub, problem.precision, device) if costs else Seconds(1, 1, 1, 1)
    recordable = bool(kernel.update.record) and problem.precision in kernel.recorded
    for rows in each(total):
        # As many rows of the share at a time as of the update, in proportion: its moments are the smaller ones.
        choice = Choice(name, rows, -(-rows * shared // total) if shared else 0)
        seen = costs.seen(sub, choice, setting.shapes.axes, problem.precision, device) if costs else None
        (ahead, behind), factors = seen or ((device, device), caution)
        plain = sub_module_seconds(sub, kernel, choice, setting, ahead, problem.precision)
        back = plain if behind is ahead else sub_module_seconds(sub, kernel, choice, setting, behind, problem.precision)
        taken = Seconds(plain.forward, back.backward, plain.host_forward, back.host_backward).scaled(factors)
        held = sub_module_bytes(sub, kernel, choice, setting)
        yield Option(choice, held, *taken.by(problem.launch), recordable, measured, taken.clocks)
        if problem.mode == "train":
            again = Choice(name, rows, choice.share_rows, True)
            more = sub_module_seconds(sub, kernel, again, setting, ahead, problem.precision).minus(plain)
            taken = taken.plus(more.scaled(factors.again))
            held = sub_module_bytes(sub, kernel, again, setting)
            yield Option(again, held, *taken.by(problem.launch), recordable, measured, taken.clocks)
