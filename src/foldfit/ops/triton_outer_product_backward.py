"""The backward of the outer product mean: AF2 Suppl. Alg. 10, lines 3-4.

One tensor with both channels at a time, [r, o, R, p] in storage precision, as library products make or read it: the outer
products, computed again for the weights' gradient, and then their own gradient, which gives those of the operands.
Shapes: triton_outer_product.py; T pairs of a row, U V channels of a tile.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.grids import cdiv, power_of_2
from foldfit.ops.triton_attention import dot, padded_dim, precision_of
from foldfit.ops.triton_outer_product import aligned

SHARES, PAIRS_EACH = 66, 2048
"""Programs that share the pairs in the weights' gradient, at most: with eight for the channels four on each multiprocessor of an H100; and
pairs of one, at least, so that its sums are little beside what it reads."""


@triton.jit
def scaled(d_out, scale, row, token, rows, z, width):
    """The gradient of tokens of a row before their scale [T, Z], in storage precision."""
    at = row * rows + token
    d = tl.load(d_out + at[:, None] * z + width[None, :], mask=(token < rows)[:, None] & (width < z)[None, :], other=0.0)
    return (d.to(tl.float32) * tl.load(scale + at, mask=token < rows, other=0.0).to(tl.float32)[:, None]).to(d.dtype)


@triton.jit
def weights_kernel(
    d_out, outer, scale, sums, r, rows, o, p, z,
    T: tl.constexpr, U: tl.constexpr, V: tl.constexpr, Z: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """outer [r, o, R, p] -> sums [programs, o, p, z] in fp32: of the weights' gradient, over each program's tiles."""
    channel = tl.arange(0, U * V)
    width = tl.arange(0, Z)
    at_o = tl.program_id(1) * U + channel // V
    at_p = channel % V
    real = (at_o < o) & (at_p < p)
    tiles = tl.cdiv(rows, T)
    # [U * V, Z]
    of_w = tl.zeros([U * V, Z], tl.float32)
    for tile in range(tl.program_id(0), r * tiles, tl.num_programs(0)):
        row = tl.cast(tile // tiles, tl.int64)
        token = tile % tiles * T + tl.arange(0, T)
        # [U * V, T], [T, Z]
        at = ((row * o + at_o) * rows * p + at_p)[:, None] + (token * p)[None, :]
        b_outer = tl.load(outer + at, mask=real[:, None] & (token < rows)[None, :], other=0.0)
        of_w = dot(b_outer, scaled(d_out, scale, row, token, rows, z, width), of_w, PRECISION)
    sums += tl.program_id(0).to(tl.int64) * o * p * z
    tl.store(sums + (at_o * p + at_p)[:, None] * z + width[None, :], of_w, mask=real[:, None] & (width < z)[None, :])


@triton.jit
def outer_kernel(
    d_out, w, scale, d_outer, rows, o, p, z,
    T: tl.constexpr, U: tl.constexpr, V: tl.constexpr, Z: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """d_outer [r, o, R, p] = scale * d_out w^T, T pairs of a row a program."""
    tiles = tl.cdiv(rows, T)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    token = tl.program_id(0) % tiles * T + tl.arange(0, T)
    width = tl.arange(0, Z)
    channel = tl.arange(0, U * V)
    d = scaled(d_out, scale, row, token, rows, z, width)
    for first in range(0, o, U):
        at_o = first + channel // V
        at_p = channel % V
        real = (at_o < o) & (at_p < p)
        # [U * V, Z]
        b_w = tl.load(w + (at_o * p + at_p)[:, None] * z + width[None, :], mask=real[:, None] & (width < z)[None, :], other=0.0)
        y = dot(d, tl.trans(b_w), None, PRECISION).to(d.dtype)
        to = d_outer + ((row * o + at_o) * rows * p + at_p)[None, :] + (token * p)[:, None]
        tl.store(to, y, mask=(token < rows)[:, None] & real[None, :])


def channels_of(p: int, products: int) -> dict[str, int]:
    """A tile of about so many outer products of a pair."""
    width = power_of_2(p)
    return {"U": max(1, products // width), "V": width}


def weights_backward(d_out: Tensor, outer: Tensor, w: Tensor, scale: Tensor) -> Tensor:
    """The weights' gradient, [programs, o, p, z], yet to be summed."""
    (r, rows, z), (o, p, _), half = d_out.shape, w.shape, d_out.dtype != torch.float32
    channels, programs = channels_of(p, 128 if half else 64), max(1, min(SHARES, r * rows // PAIRS_EACH))
    sums = torch.empty(programs, o, p, z, dtype=torch.float32, device=w.device)
    weights_kernel[(programs, cdiv(o, channels["U"]))](
        d_out, outer, scale, sums, r, rows, o, p, z, T=64 if half else 16, Z=padded_dim(z), PRECISION=precision_of(w.dtype), **channels,
        num_warps=4, num_stages=3,
    )  # fmt: skip
    return sums


def outer_backward(d_out: Tensor, w: Tensor, scale: Tensor) -> Tensor:
    """The gradient of the outer products, [r * o, R * p]."""
    (r, rows, z), (o, p, _), half = d_out.shape, w.shape, d_out.dtype != torch.float32
    t, channels = (128, channels_of(p, 64)) if half else (32, channels_of(p, 32))
    d_outer = d_out.new_empty(r * o, rows * p)
    outer_kernel[(r * cdiv(rows, t),)](
        d_out, w, scale, d_outer, rows, o, p, z, T=t, Z=padded_dim(z), PRECISION=precision_of(w.dtype), **channels,
        num_warps=4, num_stages=3 if half else 2,
    )  # fmt: skip
    return d_outer


def backward(d_out: Tensor, a: Tensor, b: Tensor, w: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    """The gradients of a [r, o, n], b [R, p, n], w [o, p, z] and w_b [z] from that of the result, [r, R, z]."""
    n = a.shape[2]
    a, b = (aligned(x).flatten(0, 1) for x in (a, b))
    outer = a @ b.t()
    sums = weights_backward(d_out, outer, w, scale)
    del outer
    d_w = sums.sum(0).to(w.dtype)
    del sums
    d_outer = outer_backward(d_out, w, scale)
    d_a = (d_outer @ b)[:, :n].contiguous()
    d_b = (d_outer.t() @ a)[:, :n].contiguous()
    return d_a, d_b, d_w, (scale.view(1, -1) @ d_out.flatten(0, 1))[0]
