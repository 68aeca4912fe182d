"""Ranks that share one sample: which rows are whose, and the collectives between them. All of it is torch.distributed's work.

A state tensor [B, a0, a1, c] is sharded over axis 0 or 1: every rank holds whole rows of the axis, in order, sizes differing
by at most one. A rank may have none.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from foldfit.errors import BadInput

TIMEOUT = timedelta(minutes=5)
"""After which a collective that a rank does not join ends the run."""


def bounds(total: int, size: int) -> list[tuple[int, int]]:
    """(start, stop) of every rank's rows; the first ranks have one more where `total` does not divide."""
    base, more = divmod(total, size)
    starts = [rank * base + min(rank, more) for rank in range(size + 1)]
    return list(zip(starts, starts[1:], strict=False))


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
    None: `group`. `waits`: where it is a list, (begin, end) of every collective that the computation waits for."""

    group: Any = None
    all: Any = None
    waits: "list[tuple[Mark, Mark]] | None" = None

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

        Makes the result and a buffer of one sample.
        """
        mine, theirs = bounds(whole[new], self.size), bounds(whole[old], self.size)
        shape = list(x.shape)
        shape[1 + old], shape[1 + new] = whole[old], mine[self.rank][1] - mine[self.rank][0]
        out = x.new_empty(shape)
        for sample, result in zip(x, out, strict=True):
            if new == 1:
                received = result
                sent = sample.new_empty(sample.numel())
                pieces(sent, sample, new, mine, unpack=False)
            else:
                received = result.new_empty(result.numel())
                sent = sample
            row = result.numel() // whole[old] if whole[old] else 0
            column = sample.numel() // whole[new] if whole[new] else 0
            sizes = [(b - a) * row for a, b in theirs], [(b - a) * column for a, b in mine]
            with self.waited(sent, received):
                dist.all_to_all_single(received.view(-1), sent.reshape(-1), *sizes, group=self.group)
            if new == 0:
                pieces(received, result, old, theirs, unpack=True)
            del sent, received
        return out

    def gather(self, whole: Tensor) -> None:
        """Fills [R, ...], of which every rank has written its own rows, with those of the others."""
        spans = bounds(len(whole), self.size)
        with self.waited(whole):
            if len(whole) % self.size == 0:
                start, stop = spans[self.rank]
                all_gather(whole, whole[start:stop], group=self.group)
                return
            for rank, (start, stop) in enumerate(spans):
                if start < stop:
                    dist.broadcast(whole[start:stop], dist.get_global_rank(self.group, rank), group=self.group)

    def reduce(self, whole: Tensor) -> None:
        """Sums [R, ...] over ranks, each into its own rows; the others are without meaning afterwards."""
        spans = bounds(len(whole), self.size)
        with self.waited(whole):
            if len(whole) % self.size == 0:
                start, stop = spans[self.rank]
                reduce_scatter(whole[start:stop], whole, group=self.group)
                return
            for rank, (start, stop) in enumerate(spans):
                if start < stop:
                    dist.reduce(whole[start:stop], dist.get_global_rank(self.group, rank), group=self.group)

    def pass_on(self, tensors: tuple[Tensor, ...], rows: int) -> "Begun":
        """Begins to send the tensors to the next rank, and to receive as many of `rows` rows from the one before: wait for those."""
        out = tuple(x.new_empty(rows, *x.shape[1:]) for x in tensors)
        after, before = (dist.get_global_rank(self.group, (self.rank + step) % self.size) for step in (1, -1))
        sends = [dist.P2POp(dist.isend, x, after, self.group, i) for i, x in enumerate(tensors) if x.numel()]
        receives = [dist.P2POp(dist.irecv, x, before, self.group, i) for i, x in enumerate(out) if x.numel()]
        works = dist.batch_isend_irecv(sends + receives) if sends + receives else []
        return Begun(self, works, tensors, out)

    @contextlib.contextmanager
    def waited(self, *tensors: Tensor, begun: bool = False) -> Iterator[None]:
        """Around a collective on these tensors, or around waiting for one that was `begun`, that what follows needs."""
        cuda = tensors[0].is_cuda
        begin = None if self.waits is None else mark(cuda)
        with contextlib.nullcontext() if cuda or begun else let_go(*tensors):
            yield
        if self.waits is not None and begin is not None:
            self.waits.append((begin, mark(cuda)))

    def begin_sum(self, gradients: Tensor) -> list[dist.Work]:
        """Begins the sum of parameters' gradients over ranks, a mean over samples, beside the computation: wait for what is returned."""
        if self.group is None or not gradients.numel():
            return []
        group = self.all or self.group
        samples = dist.get_world_size(group) // self.size
        if samples > 1:
            gradients /= samples
        return [dist.all_reduce(gradients, group=group, async_op=True)]

    def same(self, x: Tensor) -> Tensor:
        """x of the first rank that shares the sample."""
        if self.group is not None:
            dist.broadcast(x, dist.get_global_rank(self.group, 0), group=self.group)
        return x

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
    """A collective under way: `sent` and `received` must stay as they are until it was waited for."""

    def __init__(self, ranks: Ranks, works: list[dist.Work], sent: tuple[Tensor, ...], received: tuple[Tensor, ...]) -> None:
        self.ranks, self.works, self.sent, self.received = ranks, works, sent, received

    def wait(self) -> tuple[Tensor, ...]:
        """What was received; the computation waits for it, not the host."""
        if self.works:
            with self.ranks.waited(*self.received, *self.sent, begun=True):
                for work in self.works:
                    work.wait()
                self.works.clear()
        received, self.sent, self.received = self.received, (), ()
        return received


def pieces(flat: Tensor, x: Tensor, axis: int, spans: list[tuple[int, int]], unpack: bool) -> None:
    """Between x and its pieces along `axis`, one after the other in `flat`."""
    at = 0
    for start, stop in spans:
        part = x.narrow(axis, start, stop - start)
        piece = flat.view(-1)[at : at + part.numel()].view(part.shape)
        (part if unpack else piece).copy_(piece if unpack else part)
        at += part.numel()


@contextlib.contextmanager
def let_go(*tensors: Tensor) -> Iterator[None]:
    """Waits until nothing else holds the tensors: gloo's threads do so for a moment after their result is there, and what they
    hold, nobody can free. After a second it goes on anyway."""
    storages = [x.untyped_storage() for x in tensors]
    before = [torch._C._storage_Use_Count(s._cdata) for s in storages]
    yield
    end = time.perf_counter() + 1
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
    """Of values, by which ranks compare what must be the same on all of them."""
    if not tensors:
        return ""
    total = torch.zeros((), dtype=torch.float64, device=tensors[0].device)
    for i, x in enumerate(tensors):
        total += (1 + i % 97) * x.detach().sum(dtype=torch.float64) + x.detach().abs().sum(dtype=torch.float64)
    return float(total).hex()
