"""The link between device and host: pinned pages, and copies beside the computation, each way on a stream of its own.

Rows of a second axis are many pieces of memory. PyTorch would first make them contiguous on the host, and wait for that; the driver
copies them as they lie (CUDA driver API, cuMemcpy2DAsync).
"""

import contextlib
import ctypes
import mmap
import weakref
from functools import cache

import numpy as np
import torch
from torch import Tensor

from foldfit.errors import FoldfitError, MissingEnvironment
from foldfit.runtime.ranks import Mark, mark
from foldfit.units import format_bytes

OUT, IN = 0, 1
"""Ways of the link, from the device's side."""

Event = torch.cuda.Event | None
"""When a copy is there; None: it is, as always on the CPU."""

Waits = list[tuple[Mark, Mark]] | None
"""Where it is a list: (begin, end) of every time that the computation waited for a copy."""


def host_buffer(size: int, pinned: bool) -> Tensor:
    """`size` bytes of the host's own pages, which no meter of a device counts, also where the device is the CPU. PyTorch's
    pinned memory would be rounded up to a power of two. Pages are large where the system has such, and touched by all threads before
    they are pinned, which takes half as long."""
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MissingEnvironment(f"the host has no {format_bytes(size)} left ({error.strerror}): give less --host-memory") from None
    with contextlib.suppress(OSError, AttributeError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    pages = np.frombuffer(memory, dtype=np.uint8)
    buffer = torch.from_numpy(pages)
    if pinned:
        buffer.zero_()
        register(pages.ctypes.data, size)
        weakref.finalize(pages, unpin, pages.ctypes.data).atexit = False
    return buffer


def pin(x: Tensor) -> None:
    """Pins the pages of a caller's tensor where they lie, until its memory is let go."""
    if not x.is_pinned():
        storage = x.untyped_storage()
        register(storage.data_ptr(), storage.nbytes())
        weakref.finalize(storage, unpin, storage.data_ptr()).atexit = False


def register(address: int, size: int) -> None:
    code = int(torch.cuda.cudart().cudaHostRegister(address, size, 0))
    if code:
        raise MissingEnvironment(f"cannot pin {format_bytes(size)} of host memory (CUDA error {code}): give less --host-memory")


def unpin(address: int) -> None:
    """Of a run that was abandoned with a copy under way, or of another plan than the last."""
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaHostUnregister(address)


@cache
def streams_of(device: torch.device) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
    """For copies out and for copies back, which the link takes at the same time."""
    return torch.cuda.Stream(device), torch.cuda.Stream(device)


def begin(device: torch.device, way: int, pairs: list[tuple[Tensor, Tensor]], waits: Waits, after: Event = None) -> Event:
    """Begins copies (target, source) between `device` and the host, beside what the computation is given next: after all that it was
    given so far, or after an event. On the CPU nothing goes on beside: they are done."""
    if device.type == "cpu":
        start = mark(False)
        for target, source in pairs:
            target.copy_(source)
        if waits is not None:
            waits.append((start, mark(False)))
        return None
    stream = streams_of(device)[way]
    if after is None:
        stream.wait_stream(torch.cuda.current_stream(device))
    else:
        stream.wait_event(after)
    with torch.cuda.stream(stream):
        for target, source in pairs:
            copy(target, source, stream)
        return stream.record_event()


def wait(device: torch.device, event: Event, waits: Waits) -> None:
    """Makes the computation, not the host, wait for a copy; in `waits` it leaves when that began and ended."""
    if event is None:
        return
    start = None if waits is None else mark(True)
    torch.cuda.current_stream(device).wait_event(event)
    if waits is not None and start is not None:
        waits.append((start, mark(True)))


def copy(target: Tensor, source: Tensor, stream: torch.cuda.Stream) -> None:
    """On `stream`, which is the current one."""
    whole = target.is_contiguous() and source.is_contiguous()
    if whole or not (target[0].is_contiguous() and source[0].is_contiguous()):
        target.copy_(source, non_blocking=True)
        return
    size = target.element_size()
    piece = Pieces(
        source=source.data_ptr(), source_kind=UNIFIED, source_pitch=source.stride(0) * size,
        target=target.data_ptr(), target_kind=UNIFIED, target_pitch=target.stride(0) * size,
        width=target[0].numel() * size, height=target.shape[0],
    )  # fmt: skip
    code = driver().cuMemcpy2DAsync_v2(ctypes.byref(piece), ctypes.c_void_p(stream.cuda_stream))
    if code:
        raise FoldfitError(f"cannot copy {list(target.shape)} between device and host (CUDA driver error {code})")


UNIFIED = 4
"""CU_MEMORYTYPE_UNIFIED: an address says by itself whose memory it is."""


class Pieces(ctypes.Structure):
    """CUDA_MEMCPY2D."""

    _fields_ = (
        ("source_x", ctypes.c_size_t), ("source_y", ctypes.c_size_t), ("source_kind", ctypes.c_int), ("source_host", ctypes.c_void_p),
        ("source", ctypes.c_uint64), ("source_array", ctypes.c_void_p), ("source_pitch", ctypes.c_size_t),
        ("target_x", ctypes.c_size_t), ("target_y", ctypes.c_size_t), ("target_kind", ctypes.c_int), ("target_host", ctypes.c_void_p),
        ("target", ctypes.c_uint64), ("target_array", ctypes.c_void_p), ("target_pitch", ctypes.c_size_t),
        ("width", ctypes.c_size_t), ("height", ctypes.c_size_t),
    )  # fmt: skip


@cache
def driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")
