"""Shared dropout, AF2 Suppl. 1.11.6, as a function of the logical position: seed, block, sub-module, sample, row, column."""

from functools import lru_cache

import torch
from torch import Tensor

from foldfit.stacks.spec import SubModuleSpec


def drop_mask(spec: SubModuleSpec, shape: tuple[int, int], seed: Tensor, position: tuple[int, ...], like: Tensor) -> Tensor:
    """Factors 0 or 1 / (1 - rate) in mapped order, [1, n, c] or [r, 1, c], for `shape` = (r, n); seed: [] int64 where `like` is.

    Drawn in whole before any slicing, so that every plan on one kind of device draws the same; on CUDA without a look at
    the seed, which would wait for the device.
    """
    r, n = shape
    size = (1, n, spec.widths["c"]) if spec.dropout_over == "r" else (r, 1, spec.widths["c"])
    if like.is_cuda:
        from foldfit.ops.triton_dropout import factors

        return factors(size, spec.dropout, seed, mix(position) >> 1, like)
    generator = torch.Generator().manual_seed(mix((int(seed), *position)))
    return like.new_empty(size).bernoulli_(1 - spec.dropout, generator=generator).div_(1 - spec.dropout)


@lru_cache(4096)
def mix(position: tuple[int, ...]) -> int:
    """One 63-bit seed of several whole numbers (FNV-1a over them)."""
    h = 0xCBF29CE484222325
    for value in position:
        for byte in value.to_bytes(8, "little"):
            h = ((h ^ byte) * 0x100000001B3) % 2**64
    return h >> 1
