"""Dropout and residual in one pass: an update added to the state where it lies, also along the state's second axis."""

import triton
import triton.language as tl
from torch import Tensor

TILE = 4096
"""Values of a tile."""


@triton.jit
def add_kernel(
    target, update, factors, elements, n, c, target_r, target_n, update_r, update_n, update_c, factors_r, factors_n,
    T: tl.constexpr, C: tl.constexpr, HAS_FACTORS: tl.constexpr,
):  # fmt: skip
    """target += update * factors over r n elements of c channels; strides of the first two axes."""
    element = tl.program_id(0).to(tl.int64) * T + tl.arange(0, T)
    row, token = element // n, element % n
    channel = tl.arange(0, C)
    inside = (element < elements)[:, None] & (channel < c)[None, :]
    # [T, C]
    at = (row * target_r + token * target_n)[:, None] + channel[None, :]
    sum = tl.load(target + at, mask=inside, other=0.0).to(tl.float32)
    at_update = (row * update_r + token * update_n)[:, None] + channel[None, :] * update_c
    value = tl.load(update + at_update, mask=inside, other=0.0).to(tl.float32)
    if HAS_FACTORS:
        at_factors = (row * factors_r + token * factors_n)[:, None] + channel[None, :]
        value *= tl.load(factors + at_factors, mask=inside, other=0.0).to(tl.float32)
    tl.store(target + at, (sum + value).to(target.dtype.element_ty), mask=inside)


def add(target: Tensor, update: Tensor, factors: Tensor | None) -> None:
    """target [r, n, c] or [r, c] += update * factors, in place; factors [1 or r, 1 or n, c] or None."""
    if target.dim() == 2:
        target, update = target[:, None], update[:, None]
    r, n, c = target.shape
    assert target.stride(2) == 1
    spread = update if factors is None else factors.expand(r, n, c)
    width = triton.next_power_of_2(c)
    tile = max(1, TILE // width)
    add_kernel[(triton.cdiv(r * n, tile),)](
        target, update, spread, r * n, n, c, *target.stride()[:2], *update.stride(), *spread.stride()[:2],
        T=tile, C=width, HAS_FACTORS=factors is not None, num_warps=4,
    )  # fmt: skip
