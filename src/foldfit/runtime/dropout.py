"""Shared dropout, AF2 Suppl. 1.11.6, as a function of the logical position: seed, block, sub-module, row, column."""

import torch
from torch import Tensor

from foldfit.stacks.spec import SubModuleSpec


def drop_mask(spec: SubModuleSpec, shape: tuple[int, int], position: tuple[int, ...], like: Tensor) -> Tensor:
    """Factors 0 or 1 / (1 - rate) in mapped order, [1, n, c] or [r, 1, c], for `shape` = (r, n). Drawn where `like` lies, in
    whole before any slicing: every plan on one kind of device draws the same, and nothing waits for a copy."""
    generator = torch.Generator(like.device).manual_seed(mix(position))
    r, n = shape
    size = (1, n, spec.widths["c"]) if spec.dropout_over == "r" else (r, 1, spec.widths["c"])
    return like.new_empty(size).bernoulli_(1 - spec.dropout, generator=generator).div_(1 - spec.dropout)


def mix(position: tuple[int, ...]) -> int:
    """One 63-bit seed of several whole numbers (FNV-1a over them)."""
    h = 0xCBF29CE484222325
    for value in position:
        for byte in value.to_bytes(8, "little"):
            h = ((h ^ byte) * 0x100000001B3) % 2**64
    return h >> 1
