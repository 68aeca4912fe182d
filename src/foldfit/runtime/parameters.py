"""Parameters as a sub-module computes with them, and the buffers that collect their gradients."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from foldfit.model import SubModule


def bound(module: SubModule, dtype: torch.dtype, leaves: bool = False) -> SubModule:
    """The same sub-module on parameters of `dtype`, cut off from theirs; `leaves`: starts of a graph.

    Shares storage where the dtype is the parameters' own, and is the very module where nothing has to change.
    """
    own = leaves_of(module)
    if all(p.dtype == dtype and (p.requires_grad or not leaves) for p in own):
        return module
    view = copy.copy(module)
    cast = {name: None if p is None else p.detach().to(dtype).requires_grad_(leaves) for name, p in module._parameters.items()}
    view._parameters = cast  # type: ignore[assignment]
    return view


def leaves_of(module: SubModule) -> list[Tensor]:
    return [p for p in module._parameters.values() if p is not None]


class Gradients:
    """One zeroed buffer a parameter, in the parameter's own precision; slices and passes add up in it."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.buffers = {id(p): torch.zeros_like(p) for p in parameters if p.requires_grad}

    def add(self, module: SubModule, grads: Sequence[Tensor | None]) -> None:
        """`grads`: one a parameter of `module`, in its order; None where the call did not use it."""
        for p, g in zip(leaves_of(module), grads, strict=True):
            if g is not None and id(p) in self.buffers:
                self.buffers[id(p)].add_(g)

    def pop(self, parameter: nn.Parameter) -> Tensor | None:
        return self.buffers.pop(id(parameter), None)
