"""A sub-module that combines channel by channel: instead of gathering what all rows share, ranks exchange their rows, or columns, of all
channels for all of some channels, and what is combined of these for their own rows of all channels (as Jacobs et al. 2023, "DeepSpeed
Ulysses", do with an attention's heads).

Of N ranks each sends three times a part of 1 - 1/N of its own share, where gathering brings it N - 1 times as much as it has. Nothing
of this depends on whether it holds rows or columns: the tensor need not be relaid. A large tensor goes a part of the channels at a
time, beside the projections and the products of parts before. Shapes: those of the mapped order, u channels of all and q of a rank's.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from foldfit.model import SubModule
from foldfit.ops.onto import onto
from foldfit.problem import channel_parts
from foldfit.runtime.ranks import Begun, Ranks, Works, bounds, layout_of
from foldfit.runtime.rows import copy, view

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
        own, received = self.channels(self.ranks.rank, part), []
        for start, stop in self.spans:
            shape = [own.stop - own.start, *mine.shape[1:]]
            shape[self.dim] = stop - start
            received.append(mine.new_empty(shape))
        sent = [mine[self.channels(rank, part)] for rank in range(self.ranks.size)]
        works: Works | None = [] if mine.is_cuda else None
        self.ranks.all_to_all(works, received, sent)
        return Begun(self.ranks, works, tuple(sent), tuple(received))

    def joined(self, pieces: tuple[Tensor, ...]) -> Tensor:
        """[q, R, n] of every rank's rows or columns."""
        shape = list(pieces[0].shape)
        shape[self.dim] = self.total
        whole = pieces[0].new_empty(shape)
        for piece, (start, stop) in zip(pieces, self.spans, strict=True):
            copy(whole.narrow(self.dim, start, stop - start), piece)
        return whole


def forward(call: "Call", module: SubModule, state: "State", target: Tensor, before: Tensor, sample: int) -> None:
    """`target` is `before` with the update of `state`, also in place. Not recorded, without dropout."""
    spec, ranks, ops = call.module.spec, call.ranks, call.ops
    name, axis = spec.reads[0]
    source, mask = state[name][sample], call.masks[name][sample]
    r, n = source.shape[axis], source.shape[1 - axis]
    width, dim = spec.widths[spec.channels], 1 if layout_of(call.choice.layout)[name] == axis else 2
    most = source.element_size() * width * call.total * -(-call.total // ranks.size)
    exchange = Exchange(ranks, dim, call.total, width, channel_parts(most))

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
    combined, sent = combine(exchange, rights, lefts, module, (width, r, n), call)
    call.beside()
    for begun in sent:
        begun.wait()
    del begun, sent
    if source.numel():
        new, old = (view(x[sample], spec.writes[1], 0, r) for x in (target, before))
        with onto(new, old, None) as residual:
            residual.settle(module.conclude((call.rows("update", source, axis, 0, r),), combined, ops), ops.add)


def combine(
    exchange: Exchange, rights: list[Begun], lefts: list[Begun], module: SubModule, shape: tuple[int, ...], call: "Call"
) -> tuple[Tensor, list[Begun]]:
    """[u, r, n] of this rank's rows or columns, all channels; what is not waited for is still to come. Its own come last, beside the way
    of the others'."""
    ranks, sent = exchange.ranks, []
    combined: Tensor | None = None
    for part in range(exchange.parts):
        right = exchange.joined(rights.pop(0).wait())
        left = lefts.pop(0).wait()  # of rows each rank's are a product of their own, of columns all are one
        left = left if exchange.dim == 1 else (exchange.joined(left),)
        if combined is None:
            combined = right.new_empty(shape)
        for step in (*range(1, ranks.size), 0):
            to = (ranks.rank + step) % ranks.size
            prepared, shared = (left[to], right) if exchange.dim == 1 else (left[0], right[:, slice(*exchange.spans[to])])
            block = module.combine((prepared.transpose(0, 1),), (shared.transpose(0, 1),), call.ops)
            arriving = combined[exchange.channels((ranks.rank - step) % ranks.size, part)]
            if step:
                works: Works | None = [] if block.is_cuda else None
                ranks.shift(works, (block,), (arriving,), step)
                sent.append(Begun(ranks, works, (block,), (arriving,)))
            else:
                arriving.copy_(block)
            del block
        del right, left, prepared, shared
    assert combined is not None
    return combined, sent
