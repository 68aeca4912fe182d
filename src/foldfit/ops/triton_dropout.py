"""Dropout factors from a seed that lies on the device, so that a captured graph draws new ones at every replay."""

import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.grids import cdiv

BLOCK = 1024


@triton.jit
def factors_kernel(out, seed, position, total, keep, BLOCK: tl.constexpr):
    """Philox of (seed + position, element): 1 / keep with probability keep, else 0."""
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    draw = tl.rand(tl.load(seed) + position, element)
    tl.store(out + element, tl.where(draw < keep, 1 / keep, 0.0).to(out.dtype.element_ty), mask=element < total)


def factors(size: tuple[int, ...], rate: float, seed: Tensor, position: int, like: Tensor) -> Tensor:
    """Of `size`, in the dtype and on the device of `like`. seed: [] int64; position: below 2**62."""
    out = like.new_empty(size)
    factors_kernel[(cdiv(out.numel(), BLOCK),)](out, seed, position, out.numel(), 1 - rate, BLOCK=BLOCK)
    return out
