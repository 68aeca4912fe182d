"""What stands for CUDA graphs on a CPU: the operations between `begin` and `end`, done again into the same tensors.

As on a GPU a graph knows its tensors by address alone: what an operation makes is put where it lay when it was recorded. Unlike
there the operations run while they are recorded, on whatever is in their tensors; `spoil` makes sure that nothing of it remains.
"""

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
        self.summed: tuple[int, torch.Size] | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a graph does not look at values"
        kwargs = kwargs or {}
        given = {x.untyped_storage()._cdata for x in tensors((*args, *kwargs.values()))}
        out = func(*args, **kwargs)
        new = [x for x in tensors((out,)) if x.untyped_storage()._cdata not in given]
        collective = func.namespace == "c10d"
        if new or func._schema.is_mutable or collective:  # not a view
            to = next(tensors(args), None)
            # Of gloo's own, at the end of a sum: waiting for it again does this again.
            ends = func is torch.ops.aten.copy_.default and to is not None and self.summed == (to.data_ptr(), to.shape)
            self.summed = (to.data_ptr(), to.shape) if to is not None and "reduce_scatter" in func._schema.name else None
            if not ends:
                self.operations.append((func, args, kwargs, new))
        return out


def work_of(found: Any) -> Any:
    """Of what a collective returns, its work, which is last."""
    work = found[-1] if isinstance(found, (tuple, list)) else found
    return torch.distributed.Work.unbox(work) if isinstance(work, torch.ScriptObject) else work


class CpuGraphs:
    """Keeps all tensors: a pool that gives no memory out twice. `sizes`: operations of every graph; `collectives`: those of them all."""

    def __init__(self) -> None:
        self.held, self.sizes, self.collectives = 0, list[int](), 0
        self.made: list[Tensor] = []

    @contextmanager
    def rehearsing(self) -> Iterator[None]:
        yield

    capturing = rehearsing

    def begin(self) -> None:
        self.recorder = Recorder()
        self.recorder.__enter__()

    def end(self) -> Callable[[], None]:
        self.recorder.__exit__(None, None, None)
        operations = self.recorder.operations
        self.made += [x for *_, new in operations for x in new]
        work = [each for each in operations if "empty" not in each[0]._schema.name]
        self.sizes.append(len(work))
        self.collectives += sum(func.namespace == "c10d" for func, *_ in work)

        def replay() -> None:
            under_way: list[Any] = []
            with torch.no_grad():
                for func, args, kwargs, new in work:
                    from_one_to_one = func._schema.name in ("c10d::send", "c10d::recv_")
                    while under_way and not from_one_to_one:
                        under_way.pop().wait()
                    found = func(*args, **kwargs)
                    if from_one_to_one:  # which nobody does before all have begun
                        under_way.append(work_of(found))
                    elif func.namespace == "c10d":
                        work_of(found).wait()
                    for x, fresh in zip(new, tensors((found,)), strict=False):
                        x.copy_(fresh)
            while under_way:
                under_way.pop().wait()

        return replay

    def spoil(self) -> None:
        """What is in the tensors that graphs make."""
        with torch.no_grad():
            for x in self.made:
                if x.is_floating_point():
                    x.fill_(torch.nan)
