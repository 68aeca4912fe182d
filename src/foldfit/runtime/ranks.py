"""Ranks that share one sample: which rows are whose, and the collectives between them. All of it is torch.distributed's work.

A state tensor [B, a0, a1, c] is sharded over axis 0 or 1: every rank holds whole rows of the axis, in order, sizes differing
by at most one. A rank may have none.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from foldfit.errors import BadInput, FoldfitError
from foldfit.problem import bounds, relay_parts
from foldfit.runtime.rows import copy, stacked

Tensors = tuple[Tensor, ...]
Works = list[dist.Work]

TIMEOUT = timedelta(minutes=5)
"""After which a collective that a rank does not join ends the run."""


def layout_of(text: str) -> dict[str, int]:
    """ "m1 z0" -> {"m": 1, "z": 0}; "" -> {}, of a run on one rank."""
    return {word[:-1]: int(word[-1]) for word in text.split()}


Mark = float | torch.cuda.Event
"""A moment, in seconds on the processor."""

# As PyTorch calls them from 2.13 on, and before.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@dataclass(eq=False)
class Ranks:
    """`group`: those that share the sample, None: this process alone. `all`: those whose gradients are averaged over samples,
    None: `group`. `waits`: where it is a list, (begin, end) of every collective that the computation waits for, but within graphs."""

    group: Any = None
    all: Any = None
    waits: "list[tuple[Mark, Mark]] | None" = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Ranks":
        """Of the same groups: a copied model, as an average of parameters is one, runs on the same ranks."""
        return Ranks(self.group, self.all)

    @property
    def size(self) -> int:
        return 1 if self.group is None else dist.get_world_size(self.group)

    @property
    def rank(self) -> int:
        return 0 if self.group is None else dist.get_rank(self.group)

    @property
    def is_first(self) -> bool:
        """Of all ranks: the one that speaks for them."""
        return self.group is None or dist.get_rank() == 0

    def own(self, total: int) -> tuple[int, int]:
        """(start, stop) of this rank's rows."""
        return bounds(total, self.size)[self.rank]

    def narrow(self, x: Tensor, dim: int) -> Tensor:
        """This rank's part of a whole tensor; shares its memory."""
        start, stop = self.own(x.shape[dim])
        return x.narrow(dim, start, stop - start)

    def relay(self, x: Tensor, old: int, new: int, whole: tuple[int, ...]) -> Tensor:
        """x [B, a0, a1, c] sharded over axis `old` -> the same sharded over axis `new`; `whole`: (a0, a1) of all ranks.

        Makes the result and, sample by sample, a buffer of one, or of two parts of a large one: a part is packed, or unpacked, while
        another is on its way.
        """
        out = self.laid_out(x, old, new, whole)
        parts = relay_parts(x.element_size() * most_elements(whole, self.size) * x.shape[-1])
        for sample in range(len(x)):
            begun: list[Begun] = []
            for part in range(parts):
                begun.append(self.exchange(x[sample], out[sample], old, whole, part, parts, beside=x.is_cuda and parts > 1))
                if part:
                    begun.pop(0).wait()
            begun.pop().wait()
        return out

    def begin_relay(self, x: Tensor, old: int, new: int, whole: tuple[int, ...]) -> "Begun":
        """The same under way beside the computation, with the buffers of all samples; x stays as it is until it was waited for."""
        out = self.laid_out(x, old, new, whole)
        under_way = [self.exchange(x[sample], out[sample], old, whole, 0, 1, beside=x.is_cuda) for sample in range(len(x))]

        def end() -> None:
            while under_way:
                under_way.pop(0).wait()

        return Begun(self, None, (x,), (out,), end)

    def laid_out(self, x: Tensor, old: int, new: int, whole: tuple[int, ...]) -> Tensor:
        start, stop = self.own(whole[new])
        shape = list(x.shape)
        shape[1 + old], shape[1 + new] = whole[old], stop - start
        return x.new_empty(shape)

    def exchange(self, x: Tensor, out: Tensor, old: int, whole: tuple[int, ...], part: int, parts: int, beside: bool) -> "Begun":
        """Begins one part of a sample's relay, of x [a0, a1, c] into `out`: of all ranks' rows of axis 0 that part. The side that is
        sharded over axis 1 lies as it travels, so that only the other is packed or unpacked. `beside`: the computation, which else
        waits for it here."""
        rows, columns = bounds(whole[0], self.size), bounds(whole[1], self.size)
        spans = [(a + bounds(b - a, parts)[part][0], a + bounds(b - a, parts)[part][1]) for a, b in rows]
        (first, last), begin = spans[self.rank], rows[self.rank][0]
        by_row, by_column = (x, out) if old == 0 else (out, x)
        # Of the side that has whole rows: this rank's rows of the part, every rank's columns of them. Of the other side: all rows.
        own = [by_row[first - begin : last - begin, a:b] for a, b in columns]
        all_ = [by_column[a:b] for a, b in spans]
        flat = packed(own) if old == 0 else by_row.new_empty(sum(piece.numel() for piece in own))
        one_by_one = list(flat.split([piece.numel() for piece in own]))
        sent, received = (one_by_one, all_) if old == 0 else (all_, one_by_one)
        works: Works | None = [] if beside else None
        self.all_to_all(works, received, sent)

        def end() -> None:
            if old == 1:
                unpack(flat, own)

        return Begun(self, works, tuple(sent), tuple(received), end)

    def all_to_all(self, works: Works | None, received: list[Tensor], sent: list[Tensor]) -> None:
        """One tensor from and one to each rank. Waited for where there are no `works` to add it to."""
        received, sent = ([x.view(-1) for x in side] for side in (received, sent))  # views: see let_go
        with contextlib.nullcontext() if works is not None else self.waited(*sent, *received):
            if sent[0].is_cuda:
                work = dist.all_to_all(received, sent, group=self.group, async_op=works is not None)
                if works is not None:
                    works.append(work)
                return
            received[self.rank].copy_(sent[self.rank])
            others = [(r, dist.get_global_rank(self.group, r)) for r in range(self.size) if r != self.rank]
            some = [dist.P2POp(dist.isend, sent[r], at, self.group) for r, at in others if sent[r].numel()]
            some += [dist.P2POp(dist.irecv, received[r], at, self.group) for r, at in others if received[r].numel()]
            under_way = dist.batch_isend_irecv(some) if some else []
            del some
            while under_way:
                under_way.pop().wait()

    def gather(self, whole: Tensor) -> None:
        """Fills [R, ...], of which every rank has written its own rows, with those of the others."""
        spans = bounds(len(whole), self.size)
        with self.waited(whole):
            start, stop = spans[self.rank]
            if len(whole) % self.size == 0:
                all_gather(whole, whole[start:stop], group=self.group)
                return
            if whole.is_cuda:
                dist.all_gather([whole[a:b] for a, b in spans], whole[start:stop], group=self.group)
                return
            for rank, (start, stop) in enumerate(spans):
                if start < stop:
                    dist.broadcast(whole[start:stop], dist.get_global_rank(self.group, rank), group=self.group)

    def reduce(self, whole: Tensor) -> None:
        """Sums [R, ...] over ranks, each into its own rows; the others are without meaning afterwards."""
        spans = bounds(len(whole), self.size)
        with self.waited(whole):
            start, stop = spans[self.rank]
            if len(whole) % self.size == 0:
                reduce_scatter(whole[start:stop], whole, group=self.group)
                return
            if whole.is_cuda:
                dist.reduce_scatter(whole[start:stop], [whole[a:b] for a, b in spans], group=self.group)
                return
            for rank, (start, stop) in enumerate(spans):
                if start < stop:
                    dist.reduce(whole[start:stop], dist.get_global_rank(self.group, rank), group=self.group)

    def pass_on(self, tensors: Tensors, rows: int) -> "Begun":
        """Begins to send the tensors to the next rank, and to receive as many of `rows` rows from the one before: wait for those."""
        out = tuple(x.new_empty(rows, *x.shape[1:]) for x in tensors)
        # On a processor at once: gloo's threads hold for a moment what they have worked on (see let_go).
        works: Works | None = [] if any(x.is_cuda for x in tensors) else None
        self.shift(works, tensors, out)
        return Begun(self, works, tensors, out)

    def shift(self, works: Works | None, leaving: Tensors, arriving: Tensors) -> None:
        """To the next rank, from the one before. By an all-to-all with nothing for the others: what a send has had PyTorch keeps from
        everyone else until a capture ends."""
        after, before = ((self.rank + step) % self.size for step in (1, -1))
        for x, out in zip(leaving, arriving, strict=True):
            nothing = x.new_empty(0)
            to, of = [nothing] * self.size, [nothing] * self.size
            to[after], of[before] = x, out
            self.all_to_all(works, of, to)

    def finish(self, works: Works, cuda: bool) -> None:
        """Waits for what was begun."""
        with self.waited(cuda=cuda):
            for work in works:
                work.wait()
            works.clear()

    @contextlib.contextmanager
    def waited(self, *tensors: Tensor, cuda: bool = False) -> Iterator[None]:
        """Around a collective on these tensors, or around waiting for one that was begun, that what follows needs."""
        cuda = cuda or any(x.is_cuda for x in tensors)
        begin = None if self.waits is None else mark(cuda)
        with contextlib.nullcontext() if cuda else let_go(*tensors):
            yield
        if self.waits is not None and begin is not None:
            self.waits.append((begin, mark(cuda)))

    def begin_sum(self, gradients: Tensor) -> "list[Begun]":
        """Begins the sum of parameters' gradients over ranks, a mean over samples, beside the computation: wait for what is returned."""
        if self.group is None or not gradients.numel():
            return []
        samples = dist.get_world_size(self.all or self.group) // self.size
        if samples > 1:
            gradients /= samples
        works: Works = []
        self.all_reduce(works, gradients)
        return [Begun(self, works, (gradients,), ())]

    def all_reduce(self, works: Works, gradients: Tensor) -> None:
        works.append(dist.all_reduce(gradients, group=self.all or self.group, async_op=True))

    def same(self, x: Tensor) -> Tensor:
        """x of the first rank that shares the sample."""
        if self.group is not None:
            dist.broadcast(x, dist.get_global_rank(self.group, 0), group=self.group)
        return x

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Around what may fail on one rank alone: it raises on all of them then, BadInput with whose error it was on the others."""
        failed: FoldfitError | None = None
        try:
            yield
        except FoldfitError as error:
            failed = error
        said = [""] * self.size
        if self.group is not None:
            dist.all_gather_object(said, str(failed or ""), group=self.group)
        if failed:
            raise failed
        for rank, text in enumerate(said):
            if text:
                raise BadInput(f"rank {rank} cannot go on: {text}")

    def agree(self, **facts: Any) -> None:
        """Raises BadInput, on every rank, where one has other facts than the first: what differs, and whose."""
        if self.group is None:
            return
        every: list[dict[str, Any]] = [{}] * self.size
        dist.all_gather_object(every, facts, group=self.group)
        for name in facts:
            for rank, theirs in enumerate(every):
                if theirs[name] != every[0][name]:
                    raise BadInput(f"ranks must agree: {name} is {every[0][name]} on rank 0, {theirs[name]} on rank {rank}")


class Begun:
    """A collective under way: `sent` and `received` must stay as they are until it was waited for. `works`: None where nothing is left
    to wait for."""

    def __init__(self, ranks: Ranks, works: Works | None, sent: Tensors, received: Tensors, end: Callable[[], None] | None = None) -> None:
        self.ranks, self.works, self.sent, self.received, self.end = ranks, works, sent, received, end

    def wait(self) -> Tensors:
        """What was received; the computation waits for it, not the host."""
        if self.works is not None:
            self.ranks.finish(self.works, any(x.is_cuda for x in (*self.sent, *self.received)))
        if self.end:
            self.end()
        self.works = self.end = None
        received, self.sent, self.received = self.received, (), ()
        return received


def packed(parts: list[Tensor]) -> Tensor:
    """One after the other."""
    flat = parts[0].new_empty(sum(part.numel() for part in parts))
    for piece, part in pairs(flat, parts):
        copy(piece, part)
    return flat


def unpack(flat: Tensor, parts: list[Tensor]) -> None:
    for piece, part in pairs(flat, parts):
        copy(part, piece)


def pairs(flat: Tensor, parts: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Where each part lies in `flat`, and the part; all of them as one where that goes."""
    together = stacked(parts)
    if together is not None:
        yield flat.view(together.shape), together
    else:
        for piece, part in zip(flat.split([part.numel() for part in parts]), parts, strict=True):
            yield piece.view(part.shape), part


def most_elements(whole: tuple[int, ...], size: int) -> int:
    """Of a tensor [a0, a1] the most that one of `size` ranks has, whichever axis is shared."""
    return max(-(-n // size) * (prod(whole) // n) for n in whole)


@contextlib.contextmanager
def let_go(*tensors: Tensor) -> Iterator[None]:
    """Waits until nothing else holds the tensors: gloo's threads do so for a moment after their result is there, and what they
    hold, nobody can free. Seen by uses of the storage, so a collective gets views. After ten seconds it goes on anyway."""
    storages = [x.untyped_storage() for x in tensors]
    before = [torch._C._storage_Use_Count(s._cdata) for s in storages]
    yield
    end = time.perf_counter() + 10
    while time.perf_counter() < end and any(torch._C._storage_Use_Count(s._cdata) > n for s, n in zip(storages, before, strict=True)):
        time.sleep(0)


ALONE = Ranks()


def mark(cuda: bool) -> Mark:
    """Now; on CUDA as an event on its stream, so that nothing waits."""
    if not cuda:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(a: Mark, b: Mark) -> float:
    """Seconds; the device must have reached both."""
    if isinstance(a, float) and isinstance(b, float):
        return b - a
    return a.elapsed_time(b) / 1e3  # type: ignore[union-attr, arg-type]


def checksum(tensors: list[Tensor]) -> str:
    """Of values, by which ranks compare what must be the same on all of them; makes no copies, which no plan has promised."""
    if not tensors:
        return ""
    total = torch.zeros((), dtype=torch.float64, device=tensors[0].device)
    for i, x in enumerate(tensors):
        total += (1 + i % 97) * x.detach().sum(dtype=torch.float32) + torch.linalg.vector_norm(x.detach(), 1, dtype=torch.float32)
    return float(total).hex()
