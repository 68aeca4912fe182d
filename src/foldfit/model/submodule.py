"""The base of every sub-module: its parameters, made from its spec."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foldfit.ops import Ops
from foldfit.stacks.spec import SubModuleSpec


class SubModule(nn.Module):
    """A row map: `share(rows)` is what other rows need of these, `update(rows, shared)` the residual update of these.

    Rows arrive with the mapped axis first; slices, recompute, offload and ranks are the runtime's business.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...  # the spec's parameters

    def __init__(self, spec: SubModuleSpec):
        super().__init__()
        self.spec = spec
        for name, parameter in spec.parameters.items():
            shape = None if parameter is None else [spec.widths[d] for d in parameter.dims.split()]
            self.register_parameter(name, None if shape is None else nn.Parameter(torch.empty(shape)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Random parameters of AF2's scales: LeCun, He before a ReLU (AF2 Suppl. 1.11.4); gates and last layers too."""
        for name, parameter in self.spec.parameters.items():
            p = getattr(self, name)
            if parameter is None:
                continue
            if parameter.init in ("zeros", "ones"):
                p.fill_(float(parameter.init == "ones"))
            else:
                fan_in = math.prod(p.shape[:-1]) if name in ("output_w", "down_w") else p.shape[0]
                nn.init.trunc_normal_(p, std=math.sqrt((2 if parameter.init == "relu" else 1) / fan_in) / 0.87962566)

    def share(self, x: Tensor, mask: Tensor, ops: Ops) -> tuple[Tensor, ...]:
        """Rows of `spec.shares` -> the tensors to gather over all rows."""
        raise NotImplementedError(f"{type(self).__name__} shares nothing")

    def update(self, x: tuple[Tensor, ...], mask: Tensor, shared: tuple[Tensor, ...], ops: Ops) -> Tensor:
        """Rows of `spec.reads`, their mask and the gathered tensors -> the residual update of the rows of `spec.writes`."""
        raise NotImplementedError

    def prepare(self, x: tuple[Tensor, ...], mask: Tensor, ops: Ops) -> tuple[Tensor, ...]:
        """What `finish` needs of these rows, whichever part of the shared tensors it gets; `spec.prepared` and masks after it."""
        raise NotImplementedError(f"{type(self).__name__} needs all that is shared at once")

    def combine(self, prepared: tuple[Tensor, ...], shared: tuple[Tensor, ...], ops: Ops) -> Tensor:
        """Of some channels of what was prepared and of what is shared, what `conclude` needs of these channels, channels first."""
        raise NotImplementedError(f"{type(self).__name__} needs all channels at once")

    def conclude(self, x: tuple[Tensor, ...], combined: Tensor, ops: Ops) -> Tensor:
        """The update of the rows x from all channels of `combined`, without a backward; here rows and columns may both be a part."""
        raise NotImplementedError(f"{type(self).__name__} needs all channels at once")

    def finish(self, x: tuple[Tensor, ...], prepared: tuple[Tensor, ...], shared: tuple[Tensor, ...], ops: Ops) -> Tensor:
        """The columns of the update that belong to these rows of the shared tensors: with all of them it is `update`. `x`: the
        rows at those columns, where the tensor that is read is the one that is written."""
        raise NotImplementedError(f"{type(self).__name__} needs all that is shared at once")
