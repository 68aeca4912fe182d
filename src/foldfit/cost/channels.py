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
    arrives of a projection, and the same in one piece, `whole`, and the `blocks` of what is combined for each rank."""

    own: int
    whole: tuple[int, ...]
    blocks: tuple[int, ...]

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
        tuple(size(part, total, total) for part in parts),
        tuple(sum(size(part, span, total) for span in spans) for part in parts),
    )


def moments(spec: SubModuleSpec, kernel: Kernel, choice: Choice, setting: Setting) -> Iterator[int]:
    """Bytes alive, in the order of the run."""
    assert kernel.share is not None
    e, (name, axis) = exchanged(spec, setting), spec.reads[0]
    joined = setting.shapes.layout.get(name, 0) != axis
    making = max(Slices(spec, kernel.share, spec.reads, choice.rows, setting).forward(), 2 * e.own)  # what lies otherwise is copied
    yield making
    yield e.own + sum(e.whole) + making
    alive = 2 * e.own + 2 * sum(e.whole)
    yield alive
    for part in range(e.parts):
        last = e.own if part + 1 == e.parts else 0  # gone once all of it has left
        yield alive - last + e.whole[part]
        yield alive - 2 * last + joined * e.whole[part]
        alive += e.blocks[part] + (0 if part else e.own) - 2 * last
        yield alive
        alive -= 2 * e.whole[part]
    yield e.own + Slices(spec, replace(kernel.update, forward=kernel.ends), spec.reads, choice.rows, setting).forward()


def channel_bytes(spec: SubModuleSpec, kernel: Kernel, choice: Choice, setting: Setting) -> Bytes:
    """Of a run that is not recorded; the rest is without meaning."""
    cast = parameter_bytes(spec, setting.itemsize, setting.align) if setting.cast else 0
    forward = cast + max(moments(spec, kernel, choice, setting))
    return Bytes(forward, 0, forward, forward)


def channel_calls(spec: SubModuleSpec, setting: Setting) -> int:
    """Collectives of one sample: both projections' and the result's, for every part."""
    return 3 * exchanged(spec, setting).parts


def channel_seconds(
    spec: SubModuleSpec, kernel: Kernel, choice: Choice, setting: Setting, device: Device, precision: str
) -> tuple[float, float, float]:
    """Of all samples: copies into one piece, what the computation waits for, and what goes on beside it. Half of the first projection
    is on its way beside the second one, whose first part all wait for; from there on everything goes on beside the products, but
    the last part of the result."""
    assert kernel.share is not None
    e, ranks, (name, axis) = exchanged(spec, setting), setting.shapes.ranks, spec.reads[0]
    way = e.parts * seconds_of("all_to_all", device, ranks, e.own // e.parts)
    projecting = phase_seconds(kernel.share, spec, spec.reads[0], choice.rows, setting, device, precision).forward
    product = 2 * setting.shapes.axes[name][axis] * sum(e.whole) / setting.itemsize / (PRODUCT_SHARE * device.peak(precision))
    sides = 1 if setting.shapes.layout.get(name, 0) == axis else 2
    copies = 2 * sides * sum(e.whole) / device.bandwidth
    early = (e.parts + 1) // 2 / e.parts
    waited = max(0.0, early * way - projecting) + way / e.parts
    waited += max(way / e.parts, (3 - early - 1 / e.parts) * way - (product + copies) * (1 - 1 / e.parts))
    waited = min(waited, 3 * way)
    return setting.batch * copies, setting.batch * waited, setting.batch * (3 * way - waited)
