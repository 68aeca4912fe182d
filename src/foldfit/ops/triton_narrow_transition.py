"""The backward of the ReLU transition at up to 128 channels, without its hidden layer in memory: AF2 Suppl. Alg. 9, 15.

Two kernels make the hidden layer and its gradient again where they need them, seven matrix products for five that would write and
read both. One owns rows and goes through the hidden layer: the gradient of the rows, through their norm. The other owns units of
the hidden layer and goes through rows, with the gradients of both layers in registers: hidden units lie along its rows, so that what
one product makes is an operand of the next as it stands.
Each program leaves its sums, which are added afterwards: no atomics, the same bits every time.
Shapes: N rows, c channels, u hidden. In kernels: T rows and U hidden units of a tile, C channels padded for a product.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.grids import cdiv
from foldfit.ops.triton_attention import dot, precision_of
from foldfit.ops.triton_gated_linear import padded
from foldfit.ops.triton_layer_norm import normalised
from foldfit.ops.triton_transition import down_block, up_block

WIDEST = 128
"""Channels: both gradients of 128 hidden units are what the registers of two groups of warps hold."""
PROGRAMS, UNITS, ROWS_EACH = 132, 128, 2048
"""Programs of the layers' gradients, at most: one for each multiprocessor of an H100; hidden units of one; and rows of one, at least, so
that its sums are little beside what it reads."""


@triton.jit
def rows_kernel(
    d_out, x, scale, offset, up_w, up_b, down_w, y, d_x, sums, rows, c: tl.constexpr, u: tl.constexpr,
    T: tl.constexpr, C: tl.constexpr, U: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """d_x and the normalised rows y [N, c]; sums [tiles, 3, c] in fp32: of the gradients of scale, offset and the second bias."""
    row = tl.program_id(0).to(tl.int64) * T + tl.arange(0, T)
    channel = tl.arange(0, C)
    real = channel < c
    inside = (row < rows)[:, None] & real[None, :]
    at = row[:, None] * c + channel[None, :]
    b_scale = tl.load(scale + channel, mask=real, other=0.0).to(tl.float32)
    # [T, C]
    b_x = tl.load(x + at, mask=inside, other=0.0)
    hat, _ = normalised(b_x.to(tl.float32), c, C)
    b_y = hat * b_scale[None, :] + tl.load(offset + channel, mask=real, other=0.0).to(tl.float32)[None, :]
    b_y = b_y.to(b_x.dtype)
    tl.store(y + at, b_y, mask=inside)
    b_d = tl.load(d_out + at, mask=inside, other=0.0)
    sums += tl.program_id(0) * 3 * c
    tl.store(sums + 2 * c + channel, tl.sum(b_d.to(tl.float32), 0), mask=real)
    d_y = tl.zeros([T, C], tl.float32)
    for start in tl.range(0, u, U, num_stages=STAGES):
        hidden = start + tl.arange(0, U)
        b_up = up_block(up_w, hidden, c, u, C)
        # [T, U]
        h = dot(b_y, b_up, None, PRECISION) + tl.load(up_b + hidden, mask=hidden < u, other=0.0).to(tl.float32)[None, :]
        d = dot(b_d, tl.trans(down_block(down_w, hidden, c, u, C)), None, PRECISION)
        d = tl.where(h > 0, d, 0.0).to(b_y.dtype)
        d_y = dot(d, tl.trans(b_up), d_y, PRECISION)
    hat, inverse = normalised(tl.load(x + at, mask=inside, other=0.0).to(tl.float32), c, C)  # again: not kept in registers till here
    tl.store(sums + channel, tl.sum(d_y * hat, 0), mask=real)
    tl.store(sums + c + channel, tl.sum(d_y, 0), mask=real)
    d_y *= b_scale[None, :]
    d_y = inverse[:, None] * (d_y - (tl.sum(d_y, 1) / c)[:, None] - hat * (tl.sum(d_y * hat, 1) / c)[:, None])
    tl.store(d_x + at, d_y.to(d_x.dtype.element_ty), mask=inside)


@triton.jit
def layers_kernel(
    d_out, y, up_w, up_b, down_w, sums, rows, each, c: tl.constexpr, u: tl.constexpr,
    T: tl.constexpr, C: tl.constexpr, U: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """sums [shares, c u + u c + u] in fp32: of the gradients of up_w, down_w and up_b, over each share's `each` rows."""
    hidden = tl.program_id(0) * U + tl.arange(0, U)
    channel = tl.arange(0, C)
    real = (hidden < u)[:, None] & (channel < c)[None, :]
    # [U, C]
    b_up = tl.load(up_w + channel[None, :] * u + hidden[:, None], mask=real, other=0.0)
    b_down = down_block(down_w, hidden, c, u, C)
    bias = tl.load(up_b + hidden, mask=hidden < u, other=0.0).to(tl.float32)
    of_up = tl.zeros([U, C], tl.float32)
    of_down = tl.zeros([U, C], tl.float32)
    of_bias = tl.zeros([U], tl.float32)
    first = tl.program_id(1).to(tl.int64) * each
    last = tl.minimum(first + each, rows)
    for start in tl.range(first, last, T, num_stages=STAGES):
        row = start + tl.arange(0, T)
        inside = (row < last)[:, None] & (channel < c)[None, :]
        at = row[:, None] * c + channel[None, :]
        # [T, C]
        b_y = tl.load(y + at, mask=inside, other=0.0)
        b_d = tl.load(d_out + at, mask=inside, other=0.0)
        # [U, T]
        h = dot(b_up, tl.trans(b_y), None, PRECISION) + bias[:, None]
        d = dot(b_down, tl.trans(b_d), None, PRECISION)
        d = tl.where(h > 0, d, 0.0)
        of_bias += tl.sum(d, 1)
        of_up = dot(d.to(b_y.dtype), b_y, of_up, PRECISION)
        of_down = dot(tl.maximum(h, 0.0).to(b_y.dtype), b_d, of_down, PRECISION)
    sums += tl.program_id(1) * (2 * c + 1) * u
    tl.store(sums + channel[None, :] * u + hidden[:, None], of_up, mask=real)
    tl.store(sums + c * u + hidden[:, None] * c + channel[None, :], of_down, mask=real)
    tl.store(sums + 2 * c * u + hidden, of_bias, mask=hidden < u)


def rows_tile(dtype: torch.dtype) -> dict[str, int]:
    """The fastest of five in 16 bits on an NVIDIA H100 (Triton 3.6, 2026-11-26); in fp32 one that runs."""
    return {"T": 32, "U": 32, "STAGES": 2, "num_warps": 4} if dtype == torch.float32 else {"T": 64, "U": 64, "STAGES": 2, "num_warps": 4}


def layers_tile(dtype: torch.dtype) -> dict[str, int]:
    """The fastest of seven in 16 bits, at 670 TFLOP/s; in fp32 one that runs, at half the speed of the library's products or less."""
    if dtype == torch.float32:
        return {"T": 16, "U": 64, "STAGES": 2, "num_warps": 8}
    return {"T": 64, "U": UNITS, "STAGES": 3, "num_warps": 8}


def shares_of(rows: int, u: int) -> int:
    """Shares of the rows, each with sums of its own."""
    return max(1, min(PROGRAMS // cdiv(u, UNITS), rows // ROWS_EACH))


def backward(d_out: Tensor, x: Tensor, scale: Tensor, offset: Tensor, down_w: Tensor, up_b: Tensor, up_w: Tensor) -> tuple[Tensor, ...]:
    """d_out, x [N, c] -> the gradients of x, scale, offset, down_w, up_b, down_b, up_w."""
    (u, c), n, precision = down_w.shape, len(x), precision_of(x.dtype)
    d_x, y, tile = torch.empty_like(x), torch.empty_like(x), rows_tile(x.dtype)
    tiles = cdiv(n, tile["T"])
    sums = torch.empty(tiles, 3, c, dtype=torch.float32, device=x.device)
    rows_kernel[(tiles,)](d_out, x, scale, offset, up_w, up_b, down_w, y, d_x, sums, n, c, u, C=padded(c), PRECISION=precision, **tile)
    d_scale, d_offset, d_down_b = sums.sum(0).to(x.dtype)
    del sums
    shares, tile = shares_of(n, u), layers_tile(x.dtype)
    sums = torch.empty(shares, (2 * c + 1) * u, dtype=torch.float32, device=x.device)
    layers_kernel[(cdiv(u, tile["U"]), shares)](
        d_out, y, up_w, up_b, down_w, sums, n, cdiv(n, shares), c, u, C=padded(c), PRECISION=precision, **tile
    )
    del y
    total = sums.sum(0)
    del sums
    d_up_w, d_down_w, d_up_b = total.to(x.dtype).split([c * u, u * c, u])
    return d_x, d_scale, d_offset, d_down_w.view(u, c), d_up_b, d_down_b, d_up_w.view(c, u)
