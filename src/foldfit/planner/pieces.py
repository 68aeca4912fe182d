"""Options that have what is shared come in pieces: less memory, and its way hidden behind the computation where that is long enough."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import msgspec

from foldfit.cost.collectives import pass_on
from foldfit.cost.devices import Device
from foldfit.cost.memory import Setting
from foldfit.cost.pieces import piece_bytes, shared_rows, turns
from foldfit.planner.option import Option
from foldfit.stacks.spec import Kernel, SubModuleSpec

SIZES = 4
"""How many sizes of pieces are worth a try: all rows of a rank, a quarter of them, ..."""


def piece_options(
    options: Iterable[Option], sub: SubModuleSpec, kernels: dict[str, Kernel], setting: Setting, call: float
) -> Iterator[Option]:
    """Of those with all rows of a rank, half of them, a quarter ...: the same in pieces, whose launches take `call`
    seconds each. Nothing where all is needed at once."""
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
            more = setting.batch * slices * (visits - 1) * call
            forward, back = more * kernel.update.calls, more * (kernel.update.calls * (1 + choice.recompute) + kernel.update.back_calls)
            yield replace(
                option, choice=choice, bytes=piece_bytes(sub, kernel, choice, setting), seconds=option.seconds + forward,
                back_seconds=option.back_seconds + back, recordable=option.recordable and choice.recompute,
            )  # fmt: skip


def around(option: Option, sub: SubModuleSpec, setting: Setting, device: Device) -> tuple[float, float]:
    """Seconds, forward and backward, that the pieces' way takes longer than the computation beside it. Backward their gradients
    follow, and where it recomputes the sub-module has run before."""
    shapes = setting.shapes
    piece, gradient = shared_rows(sub, setting, min(option.choice.piece_rows, shapes.own(*sub.shares)))  # type: ignore[misc]
    slices, visits = turns(setting, sub, option.choice)
    passes = setting.batch * slices * (visits - visits // shapes.ranks)
    way = passes * pass_on(device, shapes.ranks, piece)
    home = setting.batch * slices * visits * pass_on(device, shapes.ranks, gradient)
    return max(0.0, way - option.seconds), max(0.0, way + home - option.back_seconds)
