"""Bytes and seconds of a sub-module whose ranks exchange channels (runtime/channels.py): of its forward, which alone does so."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from foldfit.cost.collectives import seconds_of
from foldfit.cost.devices import Device
from foldfit.cost.memory import Bytes, Setting, Slices, parameter_bytes
from foldfit.cost.seconds import phase_seconds
from foldfit.plans import Choice
from foldfit.problem import bounds, channel_parts
from foldfit.stacks.spec import Kernel, SubModuleSpec

PRODUCT_SHARE = 0.6
"""Of the peak FLOP/s, what the batched product reaches where it is long."""


@dataclass(frozen=True)
class Exchanged:
    """Bytes, of the rank with the most: `own`, of what a projection makes and of what is combined; of every part of the channels what
    `arrives` of a projection, the same in one piece, `whole`, and the blocks of what is combined for `others` and for itself."""

    own: int
    arrives: tuple[int, ...]
    whole: tuple[int, ...]
    others: tuple[int, ...]
    itself: tuple[int, ...]

    @property
    def parts(self) -> int:
        return len(self.whole)


def exchanged(spec: SubModuleSpec, setting: Setting) -> Exchanged:
    (name, axis), shapes = spec.reads[0], setting.shapes
    total, width = shapes.axes[name][axis], spec.widths[spec.channels]

    def size(*lengths: int) -> int:
        elements = setting.itemsize
        for length in lengths:
            elements *= length
        return -(-elements // setting.align) * setting.align

    spans = [stop - start for start, stop in bounds(total, shapes.ranks)]
    channels = -(-width // shapes.ranks)
    parts = [stop - start for start, stop in bounds(channels, channel_parts(setting.itemsize * width * total * spans[0]))]
    return Exchanged(
        size(width, spans[0], total),
        tuple(sum(size(part, span, total) for span in spans) for part in parts),
        tuple(size(part, total, total) for part in parts),
        tuple(sum(size(part, span, total) for span in spans[1:]) for part in parts),
        tuple(size(part, spans[0], total) for part in parts),
    )


def moments(spec: SubModuleSpec, kernel: Kernel, choice: Choice, setting: Setting) -> Iterator[int]:
    """Bytes alive, in the order of the run."""
    assert kernel.share is not None
    e, last, joined = exchanged(spec, setting), 0, setting.shapes.layout.get(spec.reads[0][0], 0) != spec.reads[0][1]
    making = max(Slices(spec, kernel.share, spec.reads, choice.rows, setting).forward(), 2 * e.own)  # what lies otherwise is copied
    yield making
    yield e.own + sum(e.arrives) + making
    alive = 2 * e.own + 2 * sum(e.arrives)
    yield alive
    for part in range(e.parts):
        last = e.own if part + 1 == e.parts else 0
        held = (e.whole[part], e.whole[part] if joined else e.arrives[part])
        for size, copied in zip(held, (True, joined), strict=True):
            yield alive - last + copied * size
            alive += size - e.arrives[part] - last
        alive += (e.own if part == 0 else 0) + e.others[part]
        yield alive + e.itself[part]
        alive -= sum(held)
    yield e.own + Slices(spec, replace(kernel.update, forward=kernel.ends), spec.reads, choice.rows, setting).forward()


def channel_bytes(spec: SubModuleSpec, kernel: Kernel, choice: Choice, setting: Setting) -> Bytes:
    """Of a run that is not recorded; the rest is without meaning."""
    cast = parameter_bytes(spec, setting.itemsize, setting.align) if setting.cast else 0
    forward = cast + max(moments(spec, kernel, choice, setting))
    return Bytes(forward, 0, forward, forward)


def channel_calls(spec: SubModuleSpec, setting: Setting) -> int:
    """Collectives of one sample: both projections' and a step around for each other rank, for every part."""
    return exchanged(spec, setting).parts * (2 + setting.shapes.ranks - 1)


def channel_seconds(
    spec: SubModuleSpec, kernel: Kernel, choice: Choice, setting: Setting, device: Device, precision: str
) -> tuple[float, float, float]:
    """Of all samples: copies into one piece, what the computation waits for, and what goes on beside it. Half of the first projection
    is on its way beside the second one, whose first part all wait for; from there on everything goes on beside the products."""
    assert kernel.share is not None
    e, ranks, (name, axis) = exchanged(spec, setting), setting.shapes.ranks, spec.reads[0]
    way = e.parts * seconds_of("all_to_all", device, ranks, e.own // e.parts)
    projecting = phase_seconds(kernel.share, spec, spec.reads[0], choice.rows, setting, device, precision).forward
    product = 2 * setting.shapes.axes[name][axis] * sum(e.whole) / setting.itemsize / (PRODUCT_SHARE * device.peak(precision))
    sides = 1 if setting.shapes.layout.get(name, 0) == axis else 2
    copies = 2 * (sides * sum(e.whole) + sum(e.itself)) / device.bandwidth
    early = (e.parts + 1) // 2 / e.parts
    waited = max(0.0, early * way - projecting) + way / e.parts
    waited += max(way / e.parts / ranks, (3 - early - 1 / e.parts) * way - product - copies)
    waited = min(waited, 3 * way)
    return setting.batch * copies, setting.batch * waited, setting.batch * (3 * way - waited)
