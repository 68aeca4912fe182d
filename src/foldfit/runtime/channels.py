"""A sub-module that combines channel by channel: instead of gathering what all rows share, ranks exchange their rows, or columns, of all
channels for all of some channels, and what is combined of these for their own rows of all channels (as Jacobs et al. 2023, "DeepSpeed
Ulysses", do with an attention's heads).

Of N ranks each sends three times a part of 1 - 1/N of its own share, where gathering brings it N - 1 times as much as it has. Nothing
of this depends on whether it holds rows or columns: the tensor need not be relaid. A large tensor goes a part of the channels at a
time, beside the projections and the products of parts before. Shapes: those of the mapped order, u channels of all and q of a rank's.
"""

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from torch import Tensor

from foldfit.model import SubModule
from foldfit.ops import Ops
from foldfit.ops.onto import onto
from foldfit.problem import bounds, relay_parts
from foldfit.runtime.ranks import Begun, Ranks, Works, layout_of, unpack
from foldfit.runtime.rows import view

if TYPE_CHECKING:
    from foldfit.runtime.apply import Call, State


@dataclass
class Exchange:
    """`dim`: 1 where ranks have rows of [u, r, n], 2 where they have columns; `total`: how many there are."""

    ranks: Ranks
    dim: int
    total: int
    width: int
    parts: int

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Of every rank's rows, or columns."""
        return bounds(self.total, self.ranks.size)

    def channels(self, rank: int, part: int) -> slice:
        """Of all u those of a part of a rank's."""
        start, stop = bounds(self.width, self.ranks.size)[rank]
        first, last = bounds(stop - start, self.parts)[part]
        return slice(start + first, start + last)

    def begin(self, mine: Tensor, part: int) -> Begun:
        """A part of [u, r, n] of this rank's rows or columns, under way to whom its channels belong."""
        own = self.channels(self.ranks.rank, part)
        flat = mine.new_empty((own.stop - own.start) * self.total**2)
        return self.send([mine[self.channels(rank, part)] for rank in range(self.ranks.size)], self.pieces(flat), flat)

    def send(self, sent: list[Tensor], received: list[Tensor], whole: Tensor) -> Begun:
        """One to and one from each rank, those parts of `whole`, beside the computation where the device can."""
        works: Works | None = [] if whole.is_cuda else None
        self.ranks.all_to_all(works, received, sent)
        return Begun(self.ranks, works, tuple(sent), (whole,))

    def pieces(self, flat: Tensor) -> list[Tensor]:
        """[q, r, n] of every rank's rows or columns, as they arrive one after the other."""
        q = flat.numel() // self.total**2
        shapes = [(q, stop - start, self.total) if self.dim == 1 else (q, self.total, stop - start) for start, stop in self.spans]
        return [piece.view(shape) for piece, shape in zip(flat.split([prod(shape) for shape in shapes]), shapes, strict=True)]

    def joined(self, flat: Tensor) -> Tensor:
        """[q, R, n] of all rows and columns."""
        whole = flat.new_empty(flat.numel() // self.total**2, self.total, self.total)
        unpack(flat, [whole.narrow(self.dim, start, stop - start) for start, stop in self.spans])
        return whole


def forward(call: "Call", module: SubModule, state: "State", target: Tensor, before: Tensor, sample: int) -> None:
    """`target` is `before` with the update of `state`, also in place. Not recorded, without dropout."""
    spec, ranks, ops = call.module.spec, call.ranks, call.ops
    name, axis = spec.reads[0]
    source, mask = state[name][sample], call.masks[name][sample]
    r, n = source.shape[axis], source.shape[1 - axis]
    width, dim = spec.widths[spec.channels], 1 if layout_of(call.choice.layout)[name] == axis else 2
    most = source.element_size() * width * call.total * -(-call.total // ranks.size)
    exchange = Exchange(ranks, dim, call.total, width, relay_parts(most))

    def made(shares: bool) -> Tensor:
        """[u, r, n]."""
        if not source.numel():
            return source.new_empty(width, r, n)
        x, kept = call.rows("share", source, axis, 0, r), call.mask_rows("share", mask, axis, 0, r)
        (out,) = module.share(x, kept, ops) if shares else module.prepare((x,), kept, ops)
        del x
        return out.transpose(0, 1).contiguous()

    early, parts = (exchange.parts + 1) // 2, range(exchange.parts)
    mine = made(True)
    rights = [exchange.begin(mine, part) for part in parts[:early]]
    other, lefts = made(False), []
    for part in parts:
        if part >= early:
            rights.append(exchange.begin(mine, part))
        lefts.append(exchange.begin(other, part))
    del mine, other
    combined, sent = combine(exchange, rights, lefts, module, (width, r, n), ops)
    call.beside()
    for begun in sent:
        begun.wait()
    del begun, sent
    if source.numel():
        new, old = (view(x[sample], spec.writes[1], 0, r) for x in (target, before))
        with onto(new, old, None) as residual:
            residual.settle(module.conclude((call.rows("update", source, axis, 0, r),), combined, ops), ops.add)


def combine(
    exchange: Exchange, rights: list[Begun], lefts: list[Begun], module: SubModule, shape: tuple[int, ...], ops: Ops
) -> tuple[Tensor, list[Begun]]:
    """[u, r, n] of this rank's rows or columns, all channels, and their way here, which is still to wait for."""
    combined, under_way = None, []
    for part in range(exchange.parts):
        right = exchange.joined(*rights.pop(0).wait())
        (flat,) = lefts.pop(0).wait()  # of rows each rank's are a product of their own, of columns all are one
        left = exchange.pieces(flat) if exchange.dim == 1 else [exchange.joined(flat)]
        del flat
        if combined is None:
            combined = right.new_empty(shape)
        blocks = []
        for rank, (start, stop) in enumerate(exchange.spans):
            prepared, shared = (left[rank], right) if exchange.dim == 1 else (left[0], right[:, start:stop])
            blocks.append(module.combine((prepared.transpose(0, 1),), (shared.transpose(0, 1),), ops))
        del right, left, prepared, shared
        arriving = [combined[exchange.channels(rank, part)] for rank in range(exchange.ranks.size)]
        under_way.append(exchange.send(blocks, arriving, combined))
        del blocks
    assert combined is not None
    return combined, under_way
