"""Dropout and residual in one pass or at the end of another kernel (`put`), and rows laid out anew with dropout's factors: along either of
the state's axes.

Shapes: r rows, n other axis, c channels, whose elements lie side by side in the state. In kernels: T elements of a tile of r n, C channels
padded to a power of two.
"""

import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.grids import cdiv, power_of_2
from foldfit.ops.onto import residual

TILE = 4096
"""Values of a tile."""


@triton.jit
def of_factors(factors, row, token, channel, inside, factors_r, factors_n):
    """[T, C] in fp32."""
    at = (row * factors_r + token * factors_n)[:, None] + channel[None, :]
    return tl.load(factors + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def put(
    update, row, token, channel, inside, target, source, factors, target_r, target_n, source_r, source_n, factors_r, factors_n
):  # fmt: skip
    """Writes an update [T, C] in fp32 at `row`, `token` [T] and `channel` [C] of target: times factors, if any, and with source, if any.
    From target on the arguments are `placed`'s."""
    if factors is not None:
        update *= of_factors(factors, row, token, channel, inside, factors_r, factors_n)
    if source is not None:
        at_source = (row * source_r + token * source_n)[:, None] + channel[None, :]
        update += tl.load(source + at_source, mask=inside, other=0.0).to(tl.float32)
    at = (row * target_r + token * target_n)[:, None] + channel[None, :]
    tl.store(target + at, update.to(target.dtype.element_ty), mask=inside)


@triton.jit
def add_kernel(
    update, elements, n, c, update_r, update_n, update_c,
    target, source, factors, target_r, target_n, source_r, source_n, factors_r, factors_n, T: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """target = source + update * factors; strides of the first two axes."""
    element = tl.program_id(0).to(tl.int64) * T + tl.arange(0, T)
    row, token = element // n, element % n
    channel = tl.arange(0, C)
    inside = (element < elements)[:, None] & (channel < c)[None, :]
    # [T, C]
    at_update = (row * update_r + token * update_n)[:, None] + channel[None, :] * update_c
    value = tl.load(update + at_update, mask=inside, other=0.0).to(tl.float32)
    put(value, row, token, channel, inside, target, source, factors, target_r, target_n, source_r, source_n, factors_r, factors_n)


@triton.jit
def pack_kernel(
    x, factors, out, elements, n, c, x_r, x_n, factors_r, factors_n,
    T: tl.constexpr, C: tl.constexpr, HAS_FACTORS: tl.constexpr,
):  # fmt: skip
    """out [r, n, c] = x * factors."""
    element = tl.program_id(0).to(tl.int64) * T + tl.arange(0, T)
    row, token = element // n, element % n
    channel = tl.arange(0, C)
    inside = (element < elements)[:, None] & (channel < c)[None, :]
    # [T, C]
    value = tl.load(x + (row * x_r + token * x_n)[:, None] + channel[None, :], mask=inside, other=0.0)
    if HAS_FACTORS:
        value = value.to(tl.float32) * of_factors(factors, row, token, channel, inside, factors_r, factors_n)
    tl.store(out + element[:, None] * c + channel[None, :], value.to(out.dtype.element_ty), mask=inside)


def tiling(elements: int, c: int) -> tuple[tuple[int], dict[str, int]]:
    """Grid and tile."""
    width = power_of_2(c)
    tile = max(1, TILE // width)
    return (cdiv(elements, tile),), {"T": tile, "C": width, "num_warps": 4}


def placed(target: Tensor, source: Tensor | None, factors: Tensor | None) -> tuple[Tensor | int | None, ...]:
    """The arguments of `put` from target [r, n, c] on; strides 0 where there is no tensor."""
    spread = None if factors is None else factors.expand(target.shape)
    strides = [(0, 0) if x is None else x.stride()[:2] for x in (target, source, spread)]
    assert target.stride(2) == 1 and (source is None or source.stride(2) == 1)
    return target, source, spread, *strides[0], *strides[1], *strides[2]


def landing(x: Tensor, *shape: int) -> tuple[Tensor, tuple[Tensor | int | None, ...]]:
    """Of an op's result [r, n, c] of x's type: the target of the residual under way or, where there is none, a new tensor; and `placed`."""
    end = residual(shape)
    out, source, factors = end.take() if end else (x.new_empty(shape), None, None)
    return out, placed(out, source, factors)


def add(target: Tensor, source: Tensor, update: Tensor, factors: Tensor | None) -> None:
    """target [r, n, c] or [r, c] = source + update * factors; factors [1 or r, 1 or n, c] or None. source may be target."""
    if target.dim() == 2:
        target, source, update = target[:, None], source[:, None], update[:, None]
    r, n, c = target.shape
    grid, tile = tiling(r * n, c)
    add_kernel[grid](update, r * n, n, c, *update.stride(), *placed(target, source, factors), **tile)


def packed(x: Tensor, factors: Tensor | None) -> Tensor:
    """x [r, n, c] or [r, c] times factors [1 or r, 1 or n, c] or None, contiguous; x itself where there is nothing to do."""
    if factors is None and x.is_contiguous():
        return x
    out = x.new_empty(x.shape)
    wide = x if x.dim() == 3 else x[:, None]
    r, n, c = wide.shape
    assert wide.stride(2) == 1
    spread = wide if factors is None else factors.expand(r, n, c)
    grid, tile = tiling(r * n, c)
    pack_kernel[grid](wide, spread, out, r * n, n, c, *wide.stride()[:2], *spread.stride()[:2], HAS_FACTORS=factors is not None, **tile)
    return out
