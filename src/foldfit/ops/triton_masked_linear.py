"""The outer product mean's projections in one pass over the MSA: layer norm, product, mask and the change of layout.

AF2 Suppl. Alg. 10, lines 1-2. The backward computes the norm again, so that only the input is kept; the gradients of all
parameters follow from two sums over tokens, of normalised input times gradient [c, p] and of the gradient [p].
Shapes: r rows, n tokens, c channels in, p out. In kernels: T tokens of a tile, C and P the widths padded for a product.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.grids import cdiv
from foldfit.ops.triton_attention import dot, padded_dim, precision_of
from foldfit.ops.triton_layer_norm import normalised

WIDEST = 256
"""Channels that a program holds at once."""
PROGRAMS = 528
"""At most, four for each multiprocessor of an H200: each reads the weights once and then goes from tile to tile."""
TOKENS_EACH = 256
"""Of a program that sums, at least: its sums are then little beside the gradient of the input."""
CHANNELS = 32
"""Of a program that ends the parameters' gradients."""


@triton.jit
def normalised_rows(x, row, token, n, c, x_r, x_n, C: tl.constexpr):
    """Tokens of a row over their channels [T, C] in fp32, and 1 / deviation [T]."""
    channel = tl.arange(0, C)
    at = row * x_r + token.to(tl.int64)[:, None] * x_n + channel[None, :]
    b_x = tl.load(x + at, mask=(token < n)[:, None] & (channel < c)[None, :], other=0.0)
    return normalised(b_x.to(tl.float32), c, C)


@triton.jit
def forward_kernel(
    x, scale, offset, mask, w, b, out, r, n, c, p, x_r, x_n, mask_r, mask_n,
    T: tl.constexpr, C: tl.constexpr, P: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out [r, p, n]."""
    channel = tl.arange(0, C)
    width = tl.arange(0, P)
    # [C], [C, P], [P]
    b_scale = tl.load(scale + channel, mask=channel < c, other=0.0).to(tl.float32)
    b_offset = tl.load(offset + channel, mask=channel < c, other=0.0).to(tl.float32)
    b_w = tl.load(w + channel[:, None] * p + width[None, :], mask=(channel < c)[:, None] & (width < p)[None, :], other=0.0)
    b_b = tl.load(b + width, mask=width < p, other=0.0).to(tl.float32)
    tiles = tl.cdiv(n, T)
    for tile in range(tl.program_id(0), tiles * r, tl.num_programs(0)):
        row = tl.cast(tile // tiles, tl.int64)
        token = tile % tiles * T + tl.arange(0, T)
        hat, _ = normalised_rows(x, row, token, n, c, x_r, x_n, C)
        y = (hat * b_scale[None, :] + b_offset[None, :]).to(b_w.dtype)
        real = tl.load(mask + row * mask_r + token * mask_n, mask=token < n, other=0.0).to(tl.float32)
        # [T, P]
        y = (dot(y, b_w, None, PRECISION) + b_b[None, :]) * real[:, None]
        at = (row * p + width)[None, :] * n + token[:, None]
        tl.store(out + at, y.to(out.dtype.element_ty), mask=(token < n)[:, None] & (width < p)[None, :])


@triton.jit
def gradient(d_out, mask, row, token, n, p, mask_r, mask_n, d_r, d_p, d_n, width):
    """Of the projection of tokens of a row [T, P], in storage precision."""
    real = tl.load(mask + row * mask_r + token * mask_n, mask=token < n, other=0.0).to(tl.float32)
    at = row * d_r + width[None, :].to(tl.int64) * d_p + token[:, None] * d_n
    d = tl.load(d_out + at, mask=(token < n)[:, None] & (width < p)[None, :], other=0.0)
    return (d.to(tl.float32) * real[:, None]).to(d.dtype)


@triton.jit
def sums_kernel(
    d_out, x, mask, sums, r, n, c, p, x_r, x_n, mask_r, mask_n, d_r, d_p, d_n,
    T: tl.constexpr, C: tl.constexpr, P: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """sums [programs, c + 1, p] in fp32, over each program's tokens: of normalised input times gradient, of the gradient."""
    channel = tl.arange(0, C)
    width = tl.arange(0, P)
    # [P, C], [P]
    of_w = tl.zeros([P, C], tl.float32)
    of_b = tl.zeros([P], tl.float32)
    tiles = tl.cdiv(n, T)
    for tile in range(tl.program_id(0), tiles * r, tl.num_programs(0)):
        row = tl.cast(tile // tiles, tl.int64)
        token = tile % tiles * T + tl.arange(0, T)
        hat, _ = normalised_rows(x, row, token, n, c, x_r, x_n, C)
        d = gradient(d_out, mask, row, token, n, p, mask_r, mask_n, d_r, d_p, d_n, width)
        of_b += tl.sum(d.to(tl.float32), 0)
        of_w = dot(tl.trans(d), hat.to(d.dtype), of_w, PRECISION)
    sums += tl.program_id(0) * (c + 1) * p
    tl.store(sums + channel[None, :] * p + width[:, None], of_w, mask=(channel < c)[None, :] & (width < p)[:, None])
    tl.store(sums + c * p + width, of_b, mask=width < p)


@triton.jit
def input_kernel(
    d_out, x, scale, mask, w, d_x, r, n, c, p, x_r, x_n, mask_r, mask_n, d_r, d_p, d_n,
    T: tl.constexpr, C: tl.constexpr, P: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """d_x [r, n, c]."""
    channel = tl.arange(0, C)
    width = tl.arange(0, P)
    # [C], [C, P]
    b_scale = tl.load(scale + channel, mask=channel < c, other=0.0).to(tl.float32)
    b_w = tl.load(w + channel[:, None] * p + width[None, :], mask=(channel < c)[:, None] & (width < p)[None, :], other=0.0)
    tiles = tl.cdiv(n, T)
    for tile in range(tl.program_id(0), tiles * r, tl.num_programs(0)):
        row = tl.cast(tile // tiles, tl.int64)
        token = tile % tiles * T + tl.arange(0, T)
        hat, inverse = normalised_rows(x, row, token, n, c, x_r, x_n, C)
        d = gradient(d_out, mask, row, token, n, p, mask_r, mask_n, d_r, d_p, d_n, width)
        # [T, C]
        y = dot(d, tl.trans(b_w), None, PRECISION).to(d.dtype).to(tl.float32) * b_scale[None, :]
        y = inverse[:, None] * (y - (tl.sum(y, 1) / c)[:, None] - hat * (tl.sum(y * hat, 1) / c)[:, None])
        to = d_x + (row * n + token)[:, None] * c + channel[None, :]
        tl.store(to, y.to(d_x.dtype.element_ty), mask=(token < n)[:, None] & (channel < c)[None, :])


@triton.jit
def parameters_kernel(sums, scale, offset, w, d_scale, d_offset, d_w, d_b, c, p, C: tl.constexpr, P: tl.constexpr):
    """The gradients of the norm and of the projection from the sums [c + 1, p]: what was projected is hat * scale + offset."""
    channel = tl.program_id(0) * C + tl.arange(0, C)
    width = tl.arange(0, P)
    inside = (channel < c)[:, None] & (width < p)[None, :]
    at = channel[:, None] * p + width[None, :]
    # [P], [C, P]
    of_b = tl.load(sums + c * p + width, mask=width < p, other=0.0)
    of_w = tl.load(sums + at, mask=inside, other=0.0)
    b_w = tl.load(w + at, mask=inside, other=0.0).to(tl.float32)
    b_scale = tl.load(scale + channel, mask=channel < c, other=0.0).to(tl.float32)
    b_offset = tl.load(offset + channel, mask=channel < c, other=0.0).to(tl.float32)
    tl.store(d_scale + channel, tl.sum(b_w * of_w, 1).to(d_scale.dtype.element_ty), mask=channel < c)
    tl.store(d_offset + channel, tl.sum(b_w * of_b[None, :], 1).to(d_offset.dtype.element_ty), mask=channel < c)
    of_w = b_scale[:, None] * of_w + b_offset[:, None] * of_b[None, :]
    tl.store(d_w + at, of_w.to(d_w.dtype.element_ty), mask=inside)
    tl.store(d_b + width, of_b.to(d_b.dtype.element_ty), mask=width < p)


def tile_of(c: int, p: int, dtype: torch.dtype, tokens: int, warps: int, stages: int) -> dict[str, Any]:
    """A tile for 16 bits, of sixteen tokens in fp32. Those asked for are the fastest of 4, 7 and 7 on an NVIDIA H100 (Triton 3.6)."""
    t = tokens if dtype != torch.float32 else 16
    return {"T": t, "C": padded_dim(c), "P": padded_dim(p), "PRECISION": precision_of(dtype), "num_warps": warps, "num_stages": stages}


def forward(x: Tensor, scale: Tensor, offset: Tensor, mask: Tensor, w: Tensor, b: Tensor) -> Tensor:
    (r, n, c), p = x.shape, w.shape[1]
    if max(c, p) > WIDEST:
        raise NotImplementedError(f"a masked projection of at most {WIDEST} channels. Got {list(w.shape)}.")
    x = x if x.stride(2) == 1 else x.contiguous()
    out, tile = x.new_empty(r, p, n), tile_of(c, p, x.dtype, 64, 4, 3)
    grid = min(PROGRAMS, r * cdiv(n, tile["T"]))
    forward_kernel[(grid,)](x, scale, offset, mask, w, b, out, r, n, c, p, *x.stride()[:2], *mask.stride(), **tile)
    return out


class MaskedLinear(torch.autograd.Function):
    """Keeps its inputs alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, offset: Tensor, mask: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale, offset, mask, w)
        return forward(x, scale, offset, mask, w, b)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, offset, mask, w = ctx.saved_tensors
        (r, n, c), p = x.shape, w.shape[1]
        x = x if x.stride(2) == 1 else x.contiguous()
        strides = *x.stride()[:2], *mask.stride(), *d_out.stride()
        programs = min(PROGRAMS, max(1, r * n // TOKENS_EACH))
        sums = torch.empty(programs, c + 1, p, dtype=torch.float32, device=x.device)
        sums_kernel[(programs,)](d_out, x, mask, sums, r, n, c, p, *strides, **tile_of(c, p, x.dtype, 16, 4, 3))
        sums = sums.sum(0)
        d_scale, d_offset, d_w, d_b = (torch.empty_like(t) for t in (scale, offset, w, w[0]))
        grid = (cdiv(c, CHANNELS),)
        parameters_kernel[grid](sums, scale, offset, w, d_scale, d_offset, d_w, d_b, c, p, C=CHANNELS, P=padded_dim(p), num_warps=4)
        del sums
        d_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        tile = tile_of(c, p, x.dtype, 64, 8, 2)
        programs = min(PROGRAMS, r * cdiv(n, tile["T"]))
        input_kernel[(programs,)](d_out, x, scale, mask, w, d_x, r, n, c, p, *strides, **tile)
        return d_x, d_scale, d_offset, None, d_w, d_b


def masked_linear(x: Tensor, scale: Tensor, offset: Tensor, mask: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """mask * (norm(x) w + b) of x [r, n, c], the norm's scale and offset [c], mask [r, n], w [c, p], b [p], as [r, p, n].

    Raises NotImplementedError for more than 256 channels.
    """
    if torch.is_grad_enabled():
        return MaskedLinear.apply(x, scale, offset, mask, w, b)  # type: ignore[no-any-return]
    return forward(x, scale, offset, mask, w, b)
