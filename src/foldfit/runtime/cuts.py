"""A step captured in pieces: CUDA graphs that end at every collective. NCCL's calls within a graph ended a rank (2 H100, torch 2.11);
between two graphs they are those of an eager run, made again at every replay.

While a step is captured nothing runs, so that every rank captures for itself and waits for nobody. What is called between graphs
holds no memory, it only names it: what it reads and writes comes and goes within the graphs' pool, in the order of their stream.
"""

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial, wraps
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from foldfit.runtime.ranks import Ranks

Call = Callable[..., None]


def collective(call: Call) -> Call:
    """A method of `Ranks` that all ranks come to: made at once or, where a step is captured, at its replays. It allocates nothing that
    outlives it, and of the tensors in its arguments, which are contiguous, it keeps none."""

    @wraps(call)
    def made(ranks: "Ranks", *args: Any) -> None:
        if ranks.cuts is None:
            call(ranks, *args)
        else:
            ranks.cuts.cut(partial(call, ranks), args)

    return made


class Graphs(Protocol):
    """What captures: one graph after the other, all of them in the same memory."""

    def begin(self) -> None: ...

    def end(self) -> Callable[[], None] | None:
        """What replays it; None where nothing was captured."""

    def alias(self, x: Tensor) -> Tensor:
        """The same memory, not held."""


class Cuts:
    """A part of a step: its graphs and the collectives between them, in order. A context, in which it is captured."""

    def __init__(self, ranks: "Ranks", graphs: Graphs) -> None:
        self.ranks, self.graphs = ranks, graphs
        self.steps: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        self.ranks.cuts = self
        self.graphs.begin()
        return self

    def __exit__(self, *error: object) -> None:
        self.ranks.cuts = None
        self.end()

    def cut(self, call: Call, args: tuple[Any, ...]) -> None:
        self.end()
        self.steps.append(partial(call, *self.named(args)))
        self.graphs.begin()

    def named(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self.graphs.alias(x) if isinstance(x, Tensor) else self.named(x) if isinstance(x, tuple) else x for x in args)

    def end(self) -> None:
        replay = self.graphs.end()
        if replay:
            self.steps.append(replay)

    def replay(self) -> None:
        for step in self.steps:
            step()


class Rehearsal:
    """In the place of `Cuts`, of a run for its own sake: it talks to nobody."""

    def __init__(self, ranks: "Ranks") -> None:
        self.ranks = ranks

    def __enter__(self) -> Self:
        self.ranks.cuts = self
        return self

    def __exit__(self, *error: object) -> None:
        self.ranks.cuts = None

    def cut(self, call: Call, args: tuple[Any, ...]) -> None:
        pass


class CudaGraphs:
    """In one pool of memory, on one stream. `held`: bytes that replays use beyond what is allocated meanwhile: of tensors that come
    and go within the graphs."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream, self.pool = device, stream_of(device), torch.cuda.graph_pool_handle()
        self.graphs: list[torch.cuda.CUDAGraph] = []
        """The empty ones too: the pool is there as long as one of them is."""
        self.held = 0

    @contextmanager
    def rehearsing(self) -> Iterator[None]:
        """On the stream of the captures, for what libraries make there; leaves nothing of its own."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream(self.device).wait_stream(self.stream)

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Around all graphs of a step."""
        torch.cuda.synchronize(self.device)
        gc.collect()  # a graph that is taken apart would end the capture
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        yield
        self.held = torch.cuda.max_memory_allocated(self.device) - torch.cuda.memory_allocated(self.device)

    def begin(self) -> None:
        self.on = torch.cuda.stream(self.stream)
        self.on.__enter__()
        self.graphs.append(torch.cuda.CUDAGraph())
        # Of this thread: NCCL's own looks after its events meanwhile.
        self.graphs[-1].capture_begin(pool=self.pool, capture_error_mode="thread_local")

    def end(self) -> Callable[[], None] | None:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                self.graphs[-1].capture_end()
            finally:
                self.on.__exit__(None, None, None)
        return None if any("Graph is empty" in str(warning.message) for warning in said) else self.graphs[-1].replay

    def alias(self, x: Tensor) -> Tensor:
        if not x.numel():
            return torch.empty_like(x)
        return torch.as_tensor(Span(x.data_ptr(), x.nbytes), device=x.device).view(x.dtype).view(x.shape)


class Span:
    """Bytes at an address, as CUDA's array interface says it; the memory is whose it was."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 2}


@cache
def stream_of(device: torch.device) -> torch.cuda.Stream:
    """The one that all captures share: libraries keep a workspace a stream."""
    return torch.cuda.Stream(device)
