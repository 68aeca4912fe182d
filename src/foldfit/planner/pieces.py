"""Options that have what is shared come in pieces: less memory, and its way hidden behind the computation where that is long enough."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import msgspec

from foldfit.cost.collectives import pass_on
from foldfit.cost.devices import Device
from foldfit.cost.expression import nbytes
from foldfit.cost.memory import Setting
from foldfit.cost.pieces import piece_bytes, shared_rows, turns
from foldfit.cost.seconds import Seconds
from foldfit.cost.sizes import sizes_of
from foldfit.planner.option import Option
from foldfit.plans import Choice
from foldfit.stacks.spec import Kernel, SubModuleSpec

SIZES = 4
"""How many sizes of pieces are worth a try: all rows of a rank, a quarter of them, ..."""


def piece_options(
    options: Iterable[Option], sub: SubModuleSpec, kernels: dict[str, Kernel], setting: Setting, device: Device, launch: str
) -> Iterator[Option]:
    """Of those with all rows of a rank, half of them, a quarter ...: the same in pieces, for more launches. Nothing where all is needed
    at once."""
    if not sub.prepared or setting.shapes.ranks == 1:
        return
    total, own = setting.shapes.own(*sub.reads[0]), setting.shapes.own(*sub.shares)  # type: ignore[misc]
    rows = {-(-total // 2**i) for i in range(total.bit_length() + 1)}
    pieces = sorted({-(-own // 4**i) for i in range(SIZES)}, reverse=True)
    for option in options:
        for size in pieces if option.choice.rows in rows else ():
            choice = msgspec.structs.replace(option.choice, piece_rows=size)
            kernel = kernels[choice.kernel]
            slices, visits = turns(setting, sub, choice)
            alone = Seconds(*option.clocks[0], *option.clocks[1])
            taken = alone.plus(more_a_visit(sub, kernel, choice, setting, device), setting.batch * slices * (visits - 1))
            seconds, back_seconds = taken.by(launch)
            yield replace(
                option, choice=choice, bytes=piece_bytes(sub, kernel, choice, setting), seconds=seconds, back_seconds=back_seconds,
                recordable=option.recordable and choice.recompute, clocks=taken.clocks,
            )  # fmt: skip


def more_a_visit(sub: SubModuleSpec, kernel: Kernel, choice: Choice, setting: Setting, device: Device) -> Seconds:
    """Its launches; and what was prepared of the rows is read again, backward by two products."""
    forward = kernel.update.calls
    back = forward * (1 + choice.recompute) + kernel.update.back_calls
    read = nbytes(" + ".join(sub.prepared), sizes_of(sub, sub.reads[0], setting.shapes, choice.rows), setting.itemsize) / device.bandwidth
    return Seconds(
        forward * device.gap_seconds + read, back * device.gap_seconds + (2 + choice.recompute) * read,
        forward * device.launch_seconds, back * device.launch_seconds,
    )  # fmt: skip


def around(option: Option, sub: SubModuleSpec, setting: Setting, device: Device) -> tuple[float, float]:
    """Seconds, forward and backward, that the pieces are on their way. Backward their gradients follow, and where it recomputes the
    sub-module has run before."""
    shapes = setting.shapes
    piece, gradient = shared_rows(sub, setting, min(option.choice.piece_rows, shapes.own(*sub.shares)))  # type: ignore[misc]
    slices, visits = turns(setting, sub, option.choice)
    passes = setting.batch * slices * (visits - visits // shapes.ranks)
    way = passes * pass_on(device, shapes.ranks, piece)
    home = setting.batch * slices * visits * pass_on(device, shapes.ranks, gradient)
    return way, way + home
