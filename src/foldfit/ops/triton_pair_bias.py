"""The bias of an attention's logits from the pair in one pass: layer norm, projection to the heads and the change of layout.

AF2 Suppl. Alg. 7, line 3, and Alg. 13 and 14, line 2. The backward computes the norm again, so that only the input is kept. The gradients
of all parameters follow from two sums over tokens, of normalised input times gradient [c, h] and of the gradient [h], which programs leave
in parts: no atomics, the same bits every time.
Shapes: r rows, n tokens of a row, N all of them, c channels, h heads. In kernels: T tokens of a tile, C and H padded for a product.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.grids import cdiv, power_of_2
from foldfit.ops.triton_attention import dot, padded_dim, precision_of
from foldfit.ops.triton_layer_norm import normalised, starts

WIDEST = 512
"""Channels that a program holds at once."""
PROGRAMS, TOKENS_EACH = 264, 256
"""Of the backward, at most: two for each multiprocessor of an H100; and tokens of one, at least."""
PARTS = 32
"""Summed at a time."""


@triton.jit
def hats(x, token, tokens, n, c, x_r, x_n, C: tl.constexpr):
    """Tokens of x [r, n, c] normalised [T, C] in fp32, and 1 / deviation [T]."""
    channel = tl.arange(0, C)
    at = starts(token, n, x_r, x_n)[:, None] + channel[None, :]
    inside = (token < tokens)[:, None] & (channel < c)[None, :]
    return normalised(tl.load(x + at, mask=inside, other=0.0).to(tl.float32), c, C)


@triton.jit
def weights(w, c, h, C: tl.constexpr, H: tl.constexpr):
    channel = tl.arange(0, C)
    head = tl.arange(0, H)
    return tl.load(w + channel[:, None] * h + head[None, :], mask=(channel < c)[:, None] & (head < h)[None, :], other=0.0)


@triton.jit
def forward_kernel(
    x, scale, offset, w, bias, tokens, n, c, h, x_r, x_n, T: tl.constexpr, C: tl.constexpr, H: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """bias [r, h, n]."""
    channel = tl.arange(0, C)
    head = tl.arange(0, H)
    token = tl.program_id(0) * T + tl.arange(0, T)
    hat, _ = hats(x, token, tokens, n, c, x_r, x_n, C)
    hat *= tl.load(scale + channel, mask=channel < c, other=0.0).to(tl.float32)[None, :]
    hat += tl.load(offset + channel, mask=channel < c, other=0.0).to(tl.float32)[None, :]
    b_w = weights(w, c, h, C, H)
    # [T, H]
    b_bias = dot(hat.to(b_w.dtype), b_w, None, PRECISION)
    at = ((token // n).to(tl.int64) * h * n + token % n)[:, None] + head[None, :] * n
    tl.store(bias + at, b_bias.to(bias.dtype.element_ty), mask=(token < tokens)[:, None] & (head < h)[None, :])


@triton.jit
def backward_kernel(
    d_bias, x, scale, w, d_x, parts, tokens, n, c, h, x_r, x_n, d_r, d_h, d_n,
    T: tl.constexpr, C: tl.constexpr, H: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """d_x [N, c]; parts [programs, c + 1, h] in fp32."""
    channel = tl.arange(0, C)
    head = tl.arange(0, H)
    b_scale = tl.load(scale + channel, mask=channel < c, other=0.0).to(tl.float32)
    back = tl.trans(weights(w, c, h, C, H))
    # [C, H], [H]
    of_w = tl.zeros([C, H], tl.float32)
    of_b = tl.zeros([H], tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(tokens, T), tl.num_programs(0)):
        token = tile * T + tl.arange(0, T)
        hat, inverse = hats(x, token, tokens, n, c, x_r, x_n, C)
        at = ((token // n).to(tl.int64) * d_r + token % n * d_n)[:, None] + head[None, :] * d_h
        # [T, H], [T, C]
        d = tl.load(d_bias + at, mask=(token < tokens)[:, None] & (head < h)[None, :], other=0.0)
        of_b += tl.sum(d.to(tl.float32), 0)
        of_w = dot(tl.trans(hat.to(d.dtype)), d, of_w, PRECISION)
        y = dot(d, back, None, PRECISION) * b_scale[None, :]
        y = inverse[:, None] * (y - (tl.sum(y, 1) / c)[:, None] - hat * (tl.sum(y * hat, 1) / c)[:, None])
        to = d_x + token.to(tl.int64)[:, None] * c + channel[None, :]
        tl.store(to, y.to(d_x.dtype.element_ty), mask=(token < tokens)[:, None] & (channel < c)[None, :])
    parts += tl.program_id(0) * (c + 1) * h
    tl.store(parts + channel[:, None] * h + head[None, :], of_w, mask=(channel < c)[:, None] & (head < h)[None, :])
    tl.store(parts + c * h + head, of_b, mask=head < h)


@triton.jit
def summed(parts, count, part, width, H: tl.constexpr, B: tl.constexpr):
    """[H] of `width` values, over `count` parts that lie `part` values apart."""
    head = tl.arange(0, H)
    total = tl.zeros([B, H], tl.float32)
    for start in range(0, count, B):
        at = start + tl.arange(0, B)
        total += tl.load(parts + at[:, None] * part + head[None, :], mask=(at < count)[:, None] & (head < width)[None, :], other=0.0)
    return tl.sum(total, 0)


@triton.jit
def parameters_kernel(parts, scale, offset, w, d_scale, d_offset, d_w, count, c, h, H: tl.constexpr, B: tl.constexpr):
    """A program a channel: what was projected is hat * scale + offset."""
    channel = tl.program_id(0)
    head = tl.arange(0, H)
    of_w = summed(parts + channel * h, count, (c + 1) * h, h, H, B)
    of_b = summed(parts + c * h, count, (c + 1) * h, h, H, B)
    b_w = tl.load(w + channel * h + head, mask=head < h, other=0.0).to(tl.float32)
    tl.store(d_scale + channel, tl.sum(b_w * of_w).to(d_scale.dtype.element_ty))
    tl.store(d_offset + channel, tl.sum(b_w * of_b).to(d_offset.dtype.element_ty))
    of_w = tl.load(scale + channel).to(tl.float32) * of_w + tl.load(offset + channel).to(tl.float32) * of_b
    tl.store(d_w + channel * h + head, of_w.to(d_w.dtype.element_ty), mask=head < h)


def tile_of(c: int, h: int, dtype: torch.dtype, tokens: int, warps: int) -> dict[str, Any]:
    """A tile for 128 channels of 16 bits, the fastest of 3 and 4 on an NVIDIA H100 (Triton 3.6); fewer tokens where a token is larger."""
    t = max(16, min(tokens, 16384 // (power_of_2(c) * dtype.itemsize)))
    return {"T": t, "C": padded_dim(c), "H": padded_dim(h), "PRECISION": precision_of(dtype), "num_warps": warps}


def forward(x: Tensor, scale: Tensor, offset: Tensor, w: Tensor) -> Tensor:
    (r, n, c), h = x.shape, w.shape[1]
    if c > WIDEST:
        raise NotImplementedError(f"a bias from at most {WIDEST} channels. Got {c}.")
    if r * n >= 2**31:
        raise NotImplementedError(f"{list(x.shape)} is more than a kernel counts. Use fewer rows.")
    if x.stride(2) != 1:
        raise NotImplementedError(f"a bias of channels that lie {x.stride(2)} apart. They must lie side by side.")
    bias, tile = x.new_empty(r, h, n), tile_of(c, h, x.dtype, 64, 4)
    forward_kernel[(cdiv(r * n, tile["T"]),)](x, scale, offset, w, bias, r * n, n, c, h, *x.stride()[:2], **tile)
    return bias


class PairBias(torch.autograd.Function):
    """Keeps its inputs alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, offset: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale, offset, w)
        return forward(x, scale, offset, w)

    @staticmethod
    def backward(ctx: Any, d_bias: Tensor) -> tuple[Tensor, ...]:
        x, scale, offset, w = ctx.saved_tensors
        (r, n, c), h = x.shape, w.shape[1]
        programs = min(PROGRAMS, max(1, r * n // TOKENS_EACH))
        parts = torch.empty(programs, c + 1, h, dtype=torch.float32, device=x.device)
        d_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        tile = tile_of(c, h, x.dtype, 64, 4)
        backward_kernel[(programs,)](d_bias, x, scale, w, d_x, parts, r * n, n, c, h, *x.stride()[:2], *d_bias.stride(), **tile)
        d_scale, d_offset, d_w = torch.empty_like(scale), torch.empty_like(offset), torch.empty_like(w)
        parameters_kernel[(c,)](parts, scale, offset, w, d_scale, d_offset, d_w, programs, c, h, H=tile["H"], B=PARTS, num_warps=1)
        return d_x, d_scale, d_offset, d_w


def pair_bias(x: Tensor, scale: Tensor, offset: Tensor, w: Tensor) -> Tensor:
    """norm(x) w of x [r, n, c], the norm's scale and offset [c], w [c, h], as [r, h, n].

    Raises NotImplementedError for more than 512 channels, or those that do not lie side by side.
    """
    if torch.is_grad_enabled():
        return PairBias.apply(x, scale, offset, w)  # type: ignore[no-any-return]
    return forward(x, scale, offset, w)
