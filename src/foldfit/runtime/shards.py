"""Whole tensors and their shards, for what lies around a trunk that shares a sample among ranks."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from foldfit.runtime.ranks import Ranks


def shard(x: Tensor, group: "dist.ProcessGroup | None" = None, dim: int = -3) -> Tensor:
    """This rank's rows of x [..., a0, a1, c], which every rank has whole; `group`: the ranks that share it, by default all.

    Backward gathers, so that every rank has the whole gradient: what is before it runs equally on every rank, and the
    gradients of its parameters are not to be summed over the group.
    """
    return Shard.apply(x, Ranks(group or dist.group.WORLD), dim % x.dim())


def unshard(x: Tensor, group: "dist.ProcessGroup | None" = None, dim: int = -3) -> Tensor:
    """The whole tensor on every rank, from the rows of each. Backward takes this rank's rows of the gradient, which is then the same
    on every rank."""
    return Unshard.apply(x, Ranks(group or dist.group.WORLD), dim % x.dim())


def gathered(x: Tensor, ranks: Ranks, dim: int) -> Tensor:
    lengths: list[Any] = [0] * ranks.size
    dist.all_gather_object(lengths, x.shape[dim], group=ranks.group)
    rows = x.movedim(dim, 0)
    whole = rows.new_empty(sum(lengths), *rows.shape[1:])
    ranks.narrow(whole, 0).copy_(rows)
    ranks.gather(whole)
    return whole.movedim(0, dim).contiguous()


class Shard(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks, dim: int) -> Tensor:
        ctx.ranks, ctx.dim = ranks, dim
        return ranks.narrow(x, dim).clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None, None]:
        return gathered(d, ctx.ranks, ctx.dim), None, None


class Unshard(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks, dim: int) -> Tensor:
        ctx.ranks, ctx.dim = ranks, dim
        return gathered(x, ranks, dim)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None, None]:
        return ctx.ranks.narrow(d, ctx.dim).contiguous(), None, None
