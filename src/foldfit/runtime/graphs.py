"""A half of a step as one CUDA graph, the collectives of its ranks within: NCCL's kernels are launched with all others, and the host, which
takes 30 to 50 us to call one, has nothing to do with them.

Before the capture the step runs once, so that libraries have made their handles and NCCL its connections. Waits for collectives are not
timed within: that takes events for the host, nodes of the graph, with which steps took far longer than promised (docs/performance.md).
"""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Protocol, Self

import torch

if TYPE_CHECKING:
    from foldfit.runtime.ranks import Ranks


def leave_buffers_unregistered() -> None:
    """NCCL registers the buffers of collectives that are captured, and takes each for a part of one allocation. Under PyTorch's expandable
    segments (meter.py, and who else sets them) it is a part of several, and replays never end (pytorch issue 158029). Said before
    NCCL starts where foldfit starts it, elsewhere before the first capture; who has set it otherwise is left alone."""
    os.environ.setdefault("NCCL_GRAPH_REGISTER", "0")


class Graphs(Protocol):
    """What captures: one graph after the other, all of them in the same memory."""

    def begin(self) -> None: ...

    def end(self) -> Callable[[], None]:
        """What replays it."""


class Part:
    """A context, in which a part of a step is captured."""

    def __init__(self, ranks: "Ranks", graphs: Graphs) -> None:
        self.ranks, self.graphs = ranks, graphs

    def __enter__(self) -> Self:
        self.before, self.ranks.waits = self.ranks.waits, None
        self.graphs.begin()
        return self

    def __exit__(self, *error: object) -> None:
        self.ranks.waits = self.before
        self.replay = self.graphs.end()


class CudaGraphs:
    """In one pool of memory, on one stream. `held`: bytes that replays use beyond what is allocated meanwhile: of tensors that come
    and go within the graphs."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream, self.pool = device, stream_of(device), torch.cuda.graph_pool_handle()
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
        leave_buffers_unregistered()
        torch.cuda.synchronize(self.device)
        gc.collect()  # a graph that is taken apart would end the capture
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        yield
        # What another stream has used is active until the capture has ended, whoever has freed it.
        active = torch.cuda.memory_stats(self.device)["active_bytes.all.peak"]
        self.held = active - torch.cuda.memory_allocated(self.device)

    def begin(self) -> None:
        self.on = torch.cuda.stream(self.stream)
        self.on.__enter__()
        self.graph = torch.cuda.CUDAGraph()
        # Of this thread: NCCL's own looks after its events meanwhile.
        self.graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")

    def end(self) -> Callable[[], None]:
        try:
            self.graph.capture_end()
        finally:
            self.on.__exit__(None, None, None)
        return self.graph.replay


@cache
def stream_of(device: torch.device) -> torch.cuda.Stream:
    """The one that all captures share: libraries keep a workspace a stream."""
    return torch.cuda.Stream(device)
