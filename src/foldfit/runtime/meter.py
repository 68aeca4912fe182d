"""Measures peak bytes of tensors: exactly on the CPU, by the allocator's own count on CUDA."""

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Those among the arguments or results of an operation, which are values and lists of values."""
    for x in values:
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, (tuple, list)):
            yield from tensors(x)


class TensorMeter(TorchDispatchMode):
    """Bytes of the storages born inside the context and still alive: `now`, and the largest value of it, `peak`.

    Tensors that existed before are not counted; tell it of them with `adopt`.
    """

    def __init__(self, on_change: Callable[["TensorMeter"], None] | None = None) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.live: dict[int, int] = {}
        self.on_change = on_change

    def adopt(self, x: Tensor) -> None:
        """Counts x's storage until it is freed."""
        storage = x.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.live:
            return
        self.live[key] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self.now -= size
        self.live.pop(key, None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = {x.untyped_storage()._cdata for x in tensors((*args, *kwargs.values()))}
        out = func(*args, **kwargs)
        for x in tensors((out,)):
            if x.untyped_storage()._cdata not in before:
                self.adopt(x)
        if self.on_change is not None:
            self.on_change(self)
        return out


CUDA_BLOCK = 512
"""Bytes that the allocator rounds a tensor up to."""


def exact_allocator() -> None:
    """Makes CUDA's caching allocator split its blocks exactly: by default a tensor may hold up to 1 MiB more than it needs."""
    torch._C._accelerator_setAllocatorSettings("expandable_segments:True")


class CpuMeter:
    """Peak of tensors on the CPU between `reset` and `peak`, both in bytes; `alive` counts what is given to it as well."""

    def __init__(self, alive: list[Tensor]) -> None:
        self.mode = TensorMeter()
        for x in alive:
            self.mode.adopt(x)

    def __enter__(self) -> "CpuMeter":
        self.mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.mode.__exit__(*error)

    def reset(self) -> None:
        self.mode.peak = self.mode.now

    def now(self) -> int:
        return self.mode.now

    def peak(self) -> int:
        return self.mode.peak


def hold_workspaces(device: torch.device) -> None:
    """Has this stream's libraries make their workspaces now, forward's and backward's: those of other streams, as a captured plan's,
    would else be taken for them, and theirs come on top."""
    x = torch.ones(16, 16, device=device, requires_grad=True)
    with torch.enable_grad():
        torch.addmm(x[0], x, x).sum().backward()


def release_leftovers() -> None:
    """Between runs, once nothing refers to the last: gives back what it left beside its tensors, which the next one would count as
    others', and other processes may need: cycles, workspaces of its graphs' stream, cached blocks."""
    gc.collect()
    if torch.cuda.is_available():
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()


class CudaMeter:
    """Peak of the caching allocator's allocated bytes (`max_memory_allocated`) between `reset` and `peak`, less what others held
    before: `alive` is what this run stands on, `workspace` what its libraries may hold already."""

    def __init__(self, alive: list[Tensor], workspace: int = 0) -> None:
        self.device = alive[0].device
        storages = {x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in alive}
        own = sum(-(-size // CUDA_BLOCK) * CUDA_BLOCK for size in storages.values())
        hold_workspaces(self.device)
        self.others = max(0, torch.cuda.memory_allocated(self.device) - own - workspace)

    def __enter__(self) -> "CudaMeter":
        exact_allocator()
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return self

    def __exit__(self, *error: Any) -> None:
        torch.cuda.synchronize(self.device)

    def reset(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def now(self) -> int:
        return torch.cuda.memory_allocated(self.device) - self.others

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self.device) - self.others
