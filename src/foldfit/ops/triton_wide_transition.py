"""The backward of the ReLU transition at 129 to 256 channels: AF2 Suppl. Alg. 9, 15.

Two kernels own units of the hidden layer and go through the rows with one layer's gradient each in registers; the second leaves the
hidden layer's gradient in memory, from which the library makes the rows'. The hidden layer itself never is: of it the second kernel
reads where it is above zero, a byte each. Hidden units lie along the rows of both, so that what one product makes is an operand of
the next as it stands.
Each program leaves its sums, which are added afterwards: no atomics, the same bits every time.
Shapes: N rows, q of a piece, c channels, u hidden. In kernels: T rows and U hidden units of a tile, C channels padded for a product.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops import triton_layer_norm as norm
from foldfit.ops.triton_attention import dot, precision_of
from foldfit.ops.triton_gated_linear import padded
from foldfit.ops.triton_narrow_transition import UNITS, shares_of
from foldfit.ops.triton_transition import down_block

ALIGNED = 16
"""Of it the rows of what lies along the hidden layer are a multiple."""


@triton.jit
def down_kernel(
    d_out, y, up_w, up_b, alive, sums, rows, each, pitch, c: tl.constexpr, u: tl.constexpr,
    T: tl.constexpr, C: tl.constexpr, U: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """alive [u, pitch]: whether the hidden layer is above zero; sums [shares, u, c] in fp32: of the gradient of down_w."""
    hidden = tl.program_id(0) * U + tl.arange(0, U)
    channel = tl.arange(0, C)
    real = (hidden < u)[:, None] & (channel < c)[None, :]
    # [U, C]
    b_up = tl.load(up_w + channel[None, :] * u + hidden[:, None], mask=real, other=0.0)
    bias = tl.load(up_b + hidden, mask=hidden < u, other=0.0).to(tl.float32)
    of_down = tl.zeros([U, C], tl.float32)
    first = tl.program_id(1).to(tl.int64) * each
    last = tl.minimum(first + each, rows)
    tl.assume(first < last)  # with a way around the loop, its products would be waited for one by one
    for start in tl.range(first, last, T, num_stages=STAGES):
        row = start + tl.arange(0, T)
        inside = (row < last)[:, None] & (channel < c)[None, :]
        at = row[:, None] * c + channel[None, :]
        # [T, C]
        b_y = tl.load(y + at, mask=inside, other=0.0)
        b_d = tl.load(d_out + at, mask=inside, other=0.0)
        # [U, T]
        h = dot(b_up, tl.trans(b_y), None, PRECISION) + bias[:, None]
        to = alive + hidden[:, None].to(tl.int64) * pitch + row[None, :]
        tl.store(to, (h > 0).to(tl.int8), mask=(hidden < u)[:, None] & (row < last)[None, :])
        of_down = dot(tl.maximum(h, 0.0).to(b_y.dtype), b_d, of_down, PRECISION)
    tl.store(sums + tl.program_id(1) * u * c + hidden[:, None] * c + channel[None, :], of_down, mask=real)


@triton.jit
def up_kernel(
    d_out, y, down_w, alive, d_hidden, sums, rows, each, pitch, c: tl.constexpr, u: tl.constexpr,
    T: tl.constexpr, C: tl.constexpr, U: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """d_hidden [u, pitch]; sums [shares, c u + u] in fp32: of the gradients of up_w and up_b."""
    hidden = tl.program_id(0) * U + tl.arange(0, U)
    channel = tl.arange(0, C)
    # [U, C]
    b_down = down_block(down_w, hidden, c, u, C)
    of_up = tl.zeros([U, C], tl.float32)
    of_bias = tl.zeros([U], tl.float32)
    first = tl.program_id(1).to(tl.int64) * each
    last = tl.minimum(first + each, rows)
    tl.assume(first < last)  # with a way around the loop, its products would be waited for one by one
    for start in tl.range(first, last, T, num_stages=STAGES):
        row = start + tl.arange(0, T)
        inside = (row < last)[:, None] & (channel < c)[None, :]
        at = row[:, None] * c + channel[None, :]
        # [T, C]
        b_y = tl.load(y + at, mask=inside, other=0.0)
        b_d = tl.load(d_out + at, mask=inside, other=0.0)
        # [U, T]
        at = hidden[:, None].to(tl.int64) * pitch + row[None, :]
        there = (hidden < u)[:, None] & (row < last)[None, :]
        b_alive = tl.load(alive + at, mask=there, other=0)
        d = tl.where(b_alive != 0, dot(b_down, tl.trans(b_d), None, PRECISION), 0.0)
        of_bias += tl.sum(d, 1)
        half = d.to(b_y.dtype)
        tl.store(d_hidden + at, half, mask=there)
        of_up = dot(half, b_y, of_up, PRECISION)
    sums += tl.program_id(1) * (c + 1) * u
    real = (hidden < u)[:, None] & (channel < c)[None, :]
    tl.store(sums + channel[None, :] * u + hidden[:, None], of_up, mask=real)
    tl.store(sums + c * u + hidden, of_bias, mask=hidden < u)


def tile_of(dtype: torch.dtype) -> dict[str, int]:
    if dtype == torch.float32:
        return {"T": 16, "U": 32, "STAGES": 2, "num_warps": 8}
    return {"T": 64, "U": UNITS, "STAGES": 2, "num_warps": 8}


def backward(d_out: Tensor, x: Tensor, scale: Tensor, offset: Tensor, down_w: Tensor, up_b: Tensor, up_w: Tensor) -> tuple[Tensor, ...]:
    """d_out, x [N, c] -> the gradients of x, scale, offset, down_w, up_b, down_b, up_w."""
    (u, c), n, tile = down_w.shape, len(x), tile_of(x.dtype)
    shares, pitch = shares_of(n, u), triton.cdiv(n, ALIGNED) * ALIGNED
    grid, options = (triton.cdiv(u, tile["U"]), shares), {"C": padded(c), "PRECISION": precision_of(x.dtype), **tile}
    d_down_b = (x.new_ones(1, n) @ d_out)[0]
    y, alive = torch.empty_like(x), torch.empty(u, pitch, dtype=torch.int8, device=x.device)
    norm.normalise(x, scale, offset, y)
    sums = torch.empty(shares, u * c, dtype=torch.float32, device=x.device)
    down_kernel[grid](d_out, y, up_w, up_b, alive, sums, n, triton.cdiv(n, shares), pitch, c, u, **options)
    sums = sums.sum(0)
    d_down_w = sums.to(x.dtype).view(u, c)
    del sums
    d_hidden, sums = x.new_empty(u, pitch), torch.empty(shares, (c + 1) * u, dtype=torch.float32, device=x.device)
    up_kernel[grid](d_out, y, down_w, alive, d_hidden, sums, n, triton.cdiv(n, shares), pitch, c, u, **options)
    del alive
    sums = sums.sum(0)
    d_up_w, d_up_b = sums.to(x.dtype).split([c * u, u])
    del sums
    d_x = torch.mm(d_hidden[:, :n].t(), up_w.t(), out=y)
    del d_hidden
    d_scale, d_offset = norm.differentiate(d_x, x, scale, d_x).to(x.dtype)
    return d_x, d_scale, d_offset, d_down_w, d_up_b, d_down_b, d_up_w.view(c, u)
