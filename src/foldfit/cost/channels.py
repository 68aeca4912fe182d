"""Bytes and seconds of a sub-module whose ranks exchange channels (runtime/channels.py): of its forward, which alone does so."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from foldfit.cost.collectives import seconds_of
from foldfit.cost.devices import Device
from foldfit.cost.memory import Bytes, Setting, Slices, parameter_bytes
from foldfit.cost.seconds import phase_seconds
from foldfit.plans import Choice
from foldfit.problem import bounds, relay_parts
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
    parts = [stop - start for start, stop in bounds(channels, relay_parts(setting.itemsize * width * total * spans[0]))]
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
    e, last = exchanged(spec, setting), 0
    making = max(Slices(spec, kernel.share, spec.reads, choice.rows, setting).forward(), 2 * e.own)  # what lies otherwise is copied
    yield making
    yield e.own + sum(e.arrives) + making
    alive = 2 * e.own + 2 * sum(e.arrives)
    yield alive
    for part in range(e.parts):
        for _ in range(2):
            last = e.own if part + 1 == e.parts else 0
            yield alive - last + e.whole[part]
            alive += e.whole[part] - e.arrives[part] - last
        alive += (e.own if part == 0 else 0) + e.others[part]
        yield alive + e.itself[part]
        alive -= 2 * e.whole[part]
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
    """Of all samples: copies into one piece, what the computation waits for, and what goes on beside it. The first projection is on its
    way beside the second one, a part of that beside the product of the part before, and blocks beside the blocks that follow."""
    assert kernel.share is not None
    e, ranks = exchanged(spec, setting), setting.shapes.ranks
    way = e.parts * seconds_of("all_to_all", device, ranks, e.own // e.parts)
    projecting = phase_seconds(kernel.share, spec, spec.reads[0], choice.rows, setting, device, precision).forward
    total = setting.shapes.axes[spec.reads[0][0]][0]
    product = 2 * total * sum(e.whole) / setting.itemsize / (PRODUCT_SHARE * device.peak(precision))
    copies = (4 * sum(e.whole) + 2 * sum(e.itself)) / device.bandwidth
    waited = max(0.0, way - projecting) + way / e.parts
    waited += max(way / e.parts / ranks, way * (2 - 1 / e.parts) - product * (1 - 1 / ranks / e.parts))
    waited = min(waited, 3 * way)
    return setting.batch * copies, setting.batch * waited, setting.batch * (3 * way - waited)
