"""Block inputs on the host: copied out and back beside the computation, in buffers that stay for the next run.

The device's memory is given out and taken back in the computation's own order: a copy back begins when the computation has come
to where its tensors are made, and they, or those that were copied out, are let go only when it has waited for the copy. So
the allocator needs to know of no second stream, and what is allocated is what the schedule says.
"""

import mmap
import weakref
from collections import defaultdict
from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor

from foldfit.errors import MissingEnvironment
from foldfit.units import format_bytes

State = dict[str, Tensor]


def host_buffer(size: int, pinned: bool) -> Tensor:
    """`size` bytes of the host's own pages, which no meter of a device counts, also where the device is the CPU. PyTorch's
    pinned memory would be rounded up to a power of two."""
    try:
        pages = np.frombuffer(mmap.mmap(-1, size), dtype=np.uint8)
    except OSError as error:
        raise MissingEnvironment(f"the host has no {format_bytes(size)} left ({error.strerror}): give less --host-memory") from None
    if pinned:
        address = pages.ctypes.data
        code = int(torch.cuda.cudart().cudaHostRegister(address, size, 0))
        if code:
            raise MissingEnvironment(f"cannot pin {format_bytes(size)} of host memory (CUDA error {code}): give less --host-memory")
        weakref.finalize(pages, unpin, address).atexit = False
    return torch.from_numpy(pages)


def unpin(address: int) -> None:
    """Of a run that was abandoned with a copy under way, or of another plan than the last."""
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaHostUnregister(address)


class Pool:
    """Host buffers by size. `held`: bytes of all that were made, in use or not."""

    def __init__(self, pinned: bool) -> None:
        self.pinned, self.held = pinned, 0
        self.free: defaultdict[int, list[Tensor]] = defaultdict(list)

    def take(self, size: int) -> Tensor:
        if self.free[size]:
            return self.free[size].pop()
        self.held += size
        return host_buffer(size, self.pinned)

    def give(self, buffer: Tensor) -> None:
        self.free[buffer.nbytes].append(buffer)


@lru_cache(maxsize=1)
def pool_of(digest: str, pinned: bool) -> Pool:
    """The last plan's alone: pinning takes longer than a copy, and the limit on it is a plan's."""
    return Pool(pinned)


@cache
def streams_of(device: torch.device) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
    """For copies out and for copies back, which the link takes at the same time."""
    return torch.cuda.Stream(device), torch.cuda.Stream(device)


class Copy:
    """An input on the host: its buffer, its parts in the layout of its tensors, and the event after its last copy."""

    def __init__(self, buffer: Tensor, state: State) -> None:
        self.buffer = buffer
        parts = buffer.split([x.nbytes for x in state.values()])
        self.parts = {name: laid_out(part.view(x.dtype), x) for (name, x), part in zip(state.items(), parts, strict=True)}
        self.event: torch.cuda.Event | None = None


def laid_out(flat: Tensor, x: Tensor) -> Tensor:
    """`flat` in the layout of x, so that a copy is one of plain bytes; without its gaps, which a part of a caller's tensor has."""
    size = 1
    for stride, length in sorted(zip(x.stride(), x.shape, strict=True)):
        if length > 1 and stride != size:
            return flat.view(x.shape)
        size *= length
    return flat.as_strided(x.shape, x.stride())


class Host:
    """The inputs that one run of a plan has on the host, by block. A run that is abandoned gives their buffers back."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.device = torch.device("cpu")
        self.copies: dict[int, Copy] = {}
        self.pool: Pool

    def __del__(self) -> None:
        for kept in self.copies.values():
            self.pool.give(kept.buffer)

    def offload(self, block: int, state: State) -> None:
        """Begins the copy of `state`, which must stay until it is dropped."""
        self.device = next(iter(state.values())).device
        if not self.copies:
            self.pool = pool_of(self.digest, self.device.type == "cuda")
        self.copies[block] = to = Copy(self.pool.take(sum(x.nbytes for x in state.values())), state)
        self.copy(to, 0, [(to.parts[name], x) for name, x in state.items()])

    def fetch(self, block: int) -> State:
        """New tensors, and begins the copy back into them; they may be read when it was waited for."""
        of = self.copies[block]
        state = {name: torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=self.device) for name, x in of.parts.items()}
        self.copy(of, 1, [(x, of.parts[name]) for name, x in state.items()])
        return state

    def copy(self, which: Copy, way: int, pairs: list[tuple[Tensor, Tensor]]) -> None:
        """After all that the computation was given so far, and beside what it is given next."""
        if self.device.type == "cpu":
            for target, source in pairs:
                target.copy_(source)
            return
        stream = streams_of(self.device)[way]
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for target, source in pairs:
                target.copy_(source, non_blocking=True)
            which.event = stream.record_event()

    def wait(self, block: int) -> None:
        """Makes the computation, not the host, wait for the last copy of an input."""
        if block in self.copies and (event := self.copies[block].event):
            torch.cuda.current_stream(self.device).wait_event(event)
            self.copies[block].event = None

    def free(self, block: int) -> None:
        self.wait(block)
        if block in self.copies:
            self.pool.give(self.copies.pop(block).buffer)

    def close(self) -> None:
        """Nothing is under way any more: before tensors are let go where an error ends a run."""
        for block in self.copies:
            self.wait(block)
