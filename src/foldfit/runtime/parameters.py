"""Parameters as a sub-module computes with them, and the buffers that collect their gradients."""

import copy
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from foldfit.errors import NotSupported
from foldfit.model import SubModule
from foldfit.runtime.rows import stacked

SMALL = 2**14
"""Elements up to which gradients are added several at a time: PyTorch's kernel for that gives a large one few programs. A transition's two
layers of 2**18 take 15 us, a projection of 2**16 by itself 2 (an H100: benchmarks/results/kernels_over_ranks_h100.json)."""


def bound(module: SubModule, dtype: torch.dtype, leaves: bool = False) -> SubModule:
    """The same sub-module on parameters of `dtype`, cut off from theirs; `leaves`: starts of a graph.

    Shares storage where the dtype is the parameters' own. Leaves are new ones: autograd ties a leaf to the stream that it
    was first used on, which may not be the one of a capture.
    """
    if not leaves and all(p.dtype == dtype for p in leaves_of(module)):
        return module
    if hasattr(module, "parametrizations"):
        raise NotSupported(f"{module.spec.name} has parametrized parameters: torch.nn.utils.parametrize.remove_parametrizations first")
    view = copy.copy(module)
    cast = {name: None if p is None else p.detach().to(dtype).requires_grad_(leaves) for name, p in module._parameters.items()}
    view._parameters = cast  # type: ignore[assignment]
    return view


def leaves_of(module: SubModule) -> list[Tensor]:
    return [p for p in module._parameters.values() if p is not None]


class Gradients:
    """One zeroed buffer a parameter, in the parameter's own precision; slices and passes add up in it.

    All of them are parts of one tensor: thousands of small ones would each cost a launch.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        wanted = [p for p in parameters if p.requires_grad]
        self.flat = wanted[0].new_zeros(sum(p.numel() for p in wanted)) if wanted else torch.empty(0)
        self.buffers = self.parts(wanted, self.flat)

    @staticmethod
    def parts(parameters: list[nn.Parameter], flat: Tensor) -> dict[int, Tensor]:
        split = flat.split([p.numel() for p in parameters])
        return {id(p): part.view_as(p) for p, part in zip(parameters, split, strict=True)}

    def copy(self, parameters: list[nn.Parameter]) -> "Gradients":
        out = Gradients([])
        out.flat = self.flat.clone()
        out.buffers = self.parts([p for p in parameters if p.requires_grad], out.flat)
        return out

    def add(self, module: SubModule, grads: Sequence[Tensor | None]) -> None:
        """`grads`: one a parameter of `module`, in its order; None where the call did not use it."""
        pairs = [(self.buffers[id(p)], g) for p, g in zip(leaves_of(module), grads, strict=True) if g is not None and id(p) in self.buffers]
        small = []
        for _, group in groupby(pairs, key=lambda pair: pair[0].shape):
            buffers, some = zip(*group, strict=True)
            whole, added = stacked(buffers), stacked(some)
            if whole is not None and added is not None:
                whole.add_(added)
                continue
            for buffer, g in zip(buffers, some, strict=True):
                if g.numel() <= SMALL and g.is_contiguous() and g.dtype == buffer.dtype:
                    small.append((buffer, g))
                else:
                    buffer.add_(g)
        if small:
            torch._foreach_add_([b for b, _ in small], [g for _, g in small])

    def of(self, modules: Sequence[SubModule]) -> Tensor:
        """The part of `flat` that has the gradients of `modules`, whose parameters follow each other in it."""
        parts = [self.buffers[id(p)] for module in modules for p in leaves_of(module) if id(p) in self.buffers]
        if not parts:
            return self.flat[:0]
        first, last = min(p.storage_offset() for p in parts), max(p.storage_offset() + p.numel() for p in parts)
        return self.flat[first:last]

    def pop(self, parameter: nn.Parameter) -> Tensor | None:
        return self.buffers.pop(id(parameter), None)
