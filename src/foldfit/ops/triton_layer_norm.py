"""Layer norm over channels, one pass over x each way. PyTorch's own reaches a fifth of an H200's bandwidth at these widths.

The backward computes mean and deviation again from x, which it reads anyway, so that nothing is kept beside x.
Shapes: N elements of the leading axes, c channels; in kernels: T elements of a tile, C channels padded to a power of two.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.grids import cdiv, power_of_2

EPSILON = tl.constexpr(1e-5)
TILE = 4096
"""Values of a tile: 32 for each thread of four warps."""
PROGRAMS = 396
"""Of a backward, at most, each with its partial sums: three for each of the 132 multiprocessors of an H100."""
ELEMENTS_EACH = 128
"""Of a program of the backward, at least: its partial sums are then little beside what it reads."""


@triton.jit
def normalised(o, u, U: tl.constexpr):
    """o [T, U] in fp32, u channels of it real -> (o - mean) / deviation and 1 / deviation [T]."""
    channel = tl.arange(0, U)
    mean = tl.sum(o, 1) / u
    o = tl.where((channel < u)[None, :], o - mean[:, None], 0.0)
    inverse = 1 / tl.sqrt(tl.sum(o * o, 1) / u + EPSILON)
    return o * inverse[:, None], inverse


@triton.jit
def starts(element, n, x_r, x_n):
    """Where elements of x [r, n, c] begin, from their number."""
    return (element // n).to(tl.int64) * x_r + (element % n).to(tl.int64) * x_n


@triton.jit
def forward_kernel(x, scale, offset, y, elements, n, c, x_r, x_n, T: tl.constexpr, C: tl.constexpr):
    channel = tl.arange(0, C)
    element = tl.program_id(0) * T + tl.arange(0, T)
    # [T, C]
    at = element.to(tl.int64)[:, None] * c + channel[None, :]
    inside = (element < elements)[:, None] & (channel < c)[None, :]
    at_x = starts(element, n, x_r, x_n)[:, None] + channel[None, :]
    hat, _ = normalised(tl.load(x + at_x, mask=inside, other=0.0).to(tl.float32), c, C)
    hat = hat * tl.load(scale + channel, mask=channel < c, other=0.0).to(tl.float32)[None, :]
    hat += tl.load(offset + channel, mask=channel < c, other=0.0).to(tl.float32)[None, :]
    tl.store(y + at, hat.to(y.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(
    d_y, x, scale, offset, d_x, y, sums, elements, n, c, x_r, x_n, T: tl.constexpr, C: tl.constexpr, HAS_Y: tl.constexpr
):  # fmt: skip
    """sums [programs, 2, c] in fp32: of the scale's and the offset's gradients; y: the forward's result once more."""
    channel = tl.arange(0, C)
    real = channel < c
    # [C]
    b_scale = tl.load(scale + channel, mask=real, other=0.0).to(tl.float32)
    of_scale = tl.zeros([T, C], tl.float32)  # over tiles first: a sum over a tile's elements goes from thread to thread
    of_offset = tl.zeros([T, C], tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(elements, T), tl.num_programs(0)):
        element = tile * T + tl.arange(0, T)
        # [T, C]
        at = element.to(tl.int64)[:, None] * c + channel[None, :]
        at_x = starts(element, n, x_r, x_n)[:, None] + channel[None, :]
        inside = (element < elements)[:, None] & real[None, :]
        d = tl.load(d_y + at, mask=inside, other=0.0).to(tl.float32)
        hat, inverse = normalised(tl.load(x + at_x, mask=inside, other=0.0).to(tl.float32), c, C)
        if HAS_Y:
            b_offset = tl.load(offset + channel, mask=real, other=0.0).to(tl.float32)
            tl.store(y + at, (hat * b_scale[None, :] + b_offset[None, :]).to(y.dtype.element_ty), mask=inside)
        of_scale += d * hat
        of_offset += d
        d *= b_scale[None, :]
        d = inverse[:, None] * (d - (tl.sum(d, 1) / c)[:, None] - hat * (tl.sum(d * hat, 1) / c)[:, None])
        tl.store(d_x + at, d.to(d_x.dtype.element_ty), mask=inside)
    tl.store(sums + tl.program_id(0) * 2 * c + channel, tl.sum(of_scale, 0), mask=real)
    tl.store(sums + tl.program_id(0) * 2 * c + c + channel, tl.sum(of_offset, 0), mask=real)


@triton.jit
def sum_kernel(parts, out, count, width, B: tl.constexpr, W: tl.constexpr):
    """parts [count, width] in fp32, summed over the first axis in the order in which they lie."""
    column = tl.program_id(0) * W + tl.arange(0, W)
    total = tl.zeros([B, W], tl.float32)
    for start in range(0, count, B):
        part = start + tl.arange(0, B)
        at = part.to(tl.int64)[:, None] * width + column[None, :]
        total += tl.load(parts + at, mask=(part < count)[:, None] & (column < width)[None, :], other=0.0)
    tl.store(out + column, tl.sum(total, 0).to(out.dtype.element_ty), mask=column < width)


def sum_parts(parts: Tensor, dtype: torch.dtype) -> Tensor:
    """What programs left, [count, ...] in fp32 -> their sum, [...]."""
    out = torch.empty(parts.shape[1:], dtype=dtype, device=parts.device)
    sum_kernel[(cdiv(out.numel(), 16),)](parts, out, len(parts), out.numel(), B=128, W=16, num_warps=4)
    return out


def tiling(c: int) -> dict[str, int]:
    width = power_of_2(c)
    return {"T": max(1, TILE // width), "C": width}


def in_place(x: Tensor) -> Tensor:
    """x as kernels read it: [r, n, c] with any strides but its channels', where it is that; else [1, elements, c], contiguous."""
    return x if x.dim() == 3 and x.stride(2) == 1 else x.contiguous().view(1, -1, x.shape[-1])


def normalise(x: Tensor, scale: Tensor, offset: Tensor, y: Tensor) -> None:
    """Into y, contiguous."""
    x = in_place(x)
    (r, n, c), tile = x.shape, tiling(x.shape[2])
    forward_kernel[(cdiv(r * n, tile["T"]),)](x, scale, offset, y, r * n, n, c, x.stride(0), x.stride(1), **tile, num_warps=4)


def differentiate(d_y: Tensor, x: Tensor, scale: Tensor, d_x: Tensor, offset: Tensor | None = None, y: Tensor | None = None) -> Tensor:
    """Into d_x, which may be d_y; all but x contiguous. Returns the gradients of scale and offset, [2, c] in fp32. With y and offset, the
    norm's result into y as well."""
    x = in_place(x)
    r, n, c = x.shape
    elements = r * n
    programs = min(PROGRAMS, max(1, elements // ELEMENTS_EACH))
    sums = torch.empty(programs, 2, c, dtype=torch.float32, device=x.device)
    backward_kernel[(programs,)](
        d_y, x, scale, offset, d_x, y, sums, elements, n, c, x.stride(0), x.stride(1),
        **tiling(c), HAS_Y=y is not None, num_warps=4, num_stages=2,
    )  # fmt: skip
    return sum_parts(sums, torch.float32)


def forward(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    normalise(x, scale, offset, y)
    return y


class LayerNorm(torch.autograd.Function):
    """Keeps its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return forward(x, scale, offset)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, scale = ctx.saved_tensors
        d_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        d_scale, d_offset = differentiate(d_y.contiguous(), x, scale, d_x).to(scale.dtype)
        return d_x, d_scale, d_offset


def layer_norm(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """x [..., c], scale [c], offset [c] -> [..., c]; c of any size that fits a tile's registers, in practice to 4,096."""
    return LayerNorm.apply(x, scale, offset) if torch.is_grad_enabled() else forward(x, scale, offset)  # type: ignore[no-any-return]
