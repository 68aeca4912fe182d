"""What stands for CUDA graphs on a CPU: the operations between `begin` and `end`, done again into the same tensors.

As on a GPU a graph knows its tensors by address alone: what an operation makes is put where it lay when it was recorded. Unlike
there the operations run while they are recorded, on whatever is in their tensors; `spoil` makes sure that nothing of it remains.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from foldfit.runtime.meter import tensors


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a graph does not look at values"
        kwargs = kwargs or {}
        given = {x.untyped_storage()._cdata for x in tensors((*args, *kwargs.values()))}
        out = func(*args, **kwargs)
        new = [x for x in tensors((out,)) if x.untyped_storage()._cdata not in given]
        if new or func._schema.is_mutable:  # not a view
            self.operations.append((func, args, kwargs, new))
        return out


class CpuGraphs:
    """Keeps all tensors: a pool that gives no memory out twice. `sizes`: operations of every graph that has some."""

    def __init__(self) -> None:
        self.held, self.sizes = 0, list[int]()
        self.made: list[Tensor] = []

    @contextmanager
    def rehearsing(self) -> Iterator[None]:
        yield

    capturing = rehearsing

    def begin(self) -> None:
        self.recorder = Recorder()
        self.recorder.__enter__()

    def end(self) -> Callable[[], None] | None:
        self.recorder.__exit__(None, None, None)
        operations = self.recorder.operations
        self.made += [x for *_, new in operations for x in new]
        work = [each for each in operations if "empty" not in each[0]._schema.name]
        self.sizes += [len(work)] if work else []

        def replay() -> None:
            with torch.no_grad():
                for func, args, kwargs, new in work:
                    for x, fresh in zip(new, tensors((func(*args, **kwargs),)), strict=False):
                        x.copy_(fresh)

        return replay if work else None

    def alias(self, x: Tensor) -> Tensor:
        assert x.is_contiguous()
        if not x.numel():
            return torch.empty_like(x)
        span = (ctypes.c_byte * x.nbytes).from_address(x.data_ptr())
        return torch.frombuffer(span, dtype=torch.uint8).view(x.dtype).view(x.shape)

    def spoil(self) -> None:
        """What is in the tensors that graphs make."""
        with torch.no_grad():
            for x in self.made:
                if x.is_floating_point():
                    x.fill_(torch.nan)
