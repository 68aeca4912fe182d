"""The gated projections of triangle multiplication in one pass: layer norm, two products, the sigmoid, the mask and the layout.

AF2 Suppl. Alg. 11, lines 1-2. The backward computes all of it again from the rows as they came, which are all that is kept.
hopper_triangle.py and its backward do the same on NVIDIA Hopper, where they fit.
Shapes: r rows, n tokens of a row, N all of them, c channels in, u out. In kernels: T tokens of a tile, C the width padded for a product,
B columns of u at a time.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.triton_attention import dot, on_hopper, precision_of
from foldfit.ops.triton_folded_norm import (
    PROGRAMS,
    Projections,
    Tile,
    backward_tile_of,
    hats,
    norm_gradient,
    padded,
    project,
    sigmoid,
    square,
    store,
    store_parts,
    tile_of,
)
from foldfit.ops.triton_layer_norm import starts

BEST = Tile(64, 128, 8, programs=2 * PROGRAMS, registers=128)
BEST_BACKWARD = Tile(32, 128, 8)
"""Measured on an NVIDIA H100 (Triton 3.6, 2026-11-26), among 5 and 5."""


@triton.jit
def kept(mask, token, tokens, n, mask_r, mask_n):
    """[T] of mask [r, n] in fp32."""
    return tl.load(mask + starts(token, n, mask_r, mask_n), mask=token < tokens, other=0.0).to(tl.float32)


@triton.jit
def gated_kernel(
    x, mask, f, bias, out, tokens, n, first, x_r, x_n, mask_r, mask_n, c: tl.constexpr, u: tl.constexpr,
    T: tl.constexpr, C: tl.constexpr, B: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """out [u, N], columns from `first` on. A program reads its weights once and goes from tile to tile."""
    column = first + tl.arange(0, B)
    w = square(f, first, c, u, C, B)
    gate_w = square(f + c * u, first, c, u, C, B)
    for tile in tl.range(tl.program_id(0), tl.cdiv(tokens, T), tl.num_programs(0), num_stages=STAGES):
        token = tile * T + tl.arange(0, T)
        hat, _ = hats(x, token, tokens, n, x_r, x_n, c, C)
        hat = hat.to(w.dtype)
        # [T, B]
        linear = project(hat, w, bias, first, u, B, PRECISION)
        gate = sigmoid(project(hat, gate_w, bias + u, first, u, B, PRECISION), w.dtype)
        linear *= gate * kept(mask, token, tokens, n, mask_r, mask_n)[:, None]
        at = column.to(tl.int64)[None, :] * tokens + token[:, None]
        tl.store(out + at, linear.to(out.dtype.element_ty), mask=(token < tokens)[:, None] & (column < u)[None, :])


@triton.jit
def gated_backward_kernel(
    d_out, x, mask, f, bias, d_x, parts, tokens, n, first, x_r, x_n, d_r, d_u, mask_r, mask_n, c: tl.constexpr, u: tl.constexpr,
    T: tl.constexpr, C: tl.constexpr, B: tl.constexpr, ADD: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """What columns from `first` on contribute to d_x [N, c], and their parts [programs, 2, c + 1, u] (triton_folded_norm.py)."""
    channel = tl.arange(0, C)
    column = first + tl.arange(0, B)
    w = square(f, first, c, u, C, B)
    gate_w = square(f + c * u, first, c, u, C, B)
    of_w = tl.zeros([C, B], tl.float32)
    of_gate_w = tl.zeros([C, B], tl.float32)
    of_b = tl.zeros([B], tl.float32)
    of_gate_b = tl.zeros([B], tl.float32)
    for tile in tl.range(tl.program_id(0), tl.cdiv(tokens, T), tl.num_programs(0), num_stages=STAGES):
        token = tile * T + tl.arange(0, T)
        hat, inverse = hats(x, token, tokens, n, x_r, x_n, c, C)
        half = hat.to(w.dtype)
        # [T, B]
        linear = project(half, w, bias, first, u, B, PRECISION)
        gate = sigmoid(project(half, gate_w, bias + u, first, u, B, PRECISION), w.dtype)
        at = column.to(tl.int64)[None, :] * d_u + ((token // n).to(tl.int64) * d_r + token % n)[:, None]
        d = tl.load(d_out + at, mask=(token < tokens)[:, None] & (column < u)[None, :], other=0.0).to(tl.float32)
        d *= gate * kept(mask, token, tokens, n, mask_r, mask_n)[:, None]
        d_gate = d * linear * (1 - gate)
        half_d = d.to(w.dtype)
        half_gate = d_gate.to(w.dtype)
        of_b += tl.sum(d, 0)
        of_gate_b += tl.sum(d_gate, 0)
        of_w = dot(tl.trans(half), half_d, of_w, PRECISION)
        of_gate_w = dot(tl.trans(half), half_gate, of_gate_w, PRECISION)
        # [T, C]
        d_hat = dot(half_d, tl.trans(w), None, PRECISION)
        d_hat = dot(half_gate, tl.trans(gate_w), d_hat, PRECISION)
        at = token.to(tl.int64)[:, None] * c + channel[None, :]
        store(d_x, at, norm_gradient(d_hat, hat, inverse, c), (token < tokens)[:, None] & (channel < c)[None, :], ADD)
    parts += tl.program_id(0) * (2 * (c + 1) * u)
    store_parts(parts, of_w, of_b, first, c, u, C, B)
    store_parts(parts + (c + 1) * u, of_gate_w, of_gate_b, first, c, u, C, B)


def forward(x: Tensor, mask: Tensor, projections: Projections) -> Tensor:
    """[r, u, n] that lies in memory as [u, r, n], the fastest for the product."""
    projections.check(x)
    (r, n, c), u = x.shape, projections.w.shape[1]
    out, (f, bias) = x.new_empty(u, r, n), projections.fold()
    if on_hopper(x):
        from foldfit.ops import hopper_triangle

        if hopper_triangle.fits(x, out):
            hopper_triangle.gated(x, mask, f, bias, out)
            return out.transpose(0, 1)
    tile = tile_of(c, u, x.dtype, BEST)
    for first in range(0, u, tile.columns):
        gated_kernel[tile.grid(r * n)](
            x, mask, f, bias, out, r * n, n, first, *x.stride()[:2], *mask.stride(), c, u,
            C=padded(c), PRECISION=precision_of(x.dtype), **tile.options,
        )  # fmt: skip
    return out.transpose(0, 1)


def backward(d_out: Tensor, x: Tensor, mask: Tensor, projections: Projections) -> tuple[Tensor, Projections]:
    """The gradients of the rows and of the parameters."""
    (r, n, c), u = x.shape, projections.w.shape[1]
    if d_out.stride(2) != 1:
        d_out = d_out.contiguous()
    (f, bias), parts = projections.fold(), projections.parts(r * n)
    d_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    if on_hopper(x):
        from foldfit.ops import hopper_triangle_backward

        if hopper_triangle_backward.fits(x, d_out.transpose(0, 1)):
            hopper_triangle_backward.gated_backward(d_out.transpose(0, 1), x, mask, f, bias, d_x, parts)
            return d_x, projections.reduce(parts)
    tile = backward_tile_of(c, u, x.dtype, BEST_BACKWARD)
    for first in range(0, u, tile.columns):
        gated_backward_kernel[(len(parts),)](
            d_out, x, mask, f, bias, d_x, parts, r * n, n, first, *x.stride()[:2], *d_out.stride()[:2], *mask.stride(), c, u,
            C=padded(c), ADD=first > 0, PRECISION=precision_of(x.dtype), **tile.options,
        )  # fmt: skip
    return d_x, projections.reduce(parts)


class GatedLinear(torch.autograd.Function):
    """Keeps its inputs alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, *given: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, mask, *given)
        return forward(x, mask, behind_one_norm(*given))

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        x, mask, *given = ctx.saved_tensors
        d_x, d = backward(d_out, x, mask, behind_one_norm(*given))
        return d_x, None, d.scale, d.offset, d.w, d.gate_w, d.b, d.gate_b


def behind_one_norm(scale: Any, offset: Any, w: Any, gate_w: Any, b: Any, gate_b: Any) -> Projections:
    return Projections(w, b, scale, offset, gate_w, gate_b, scale, offset)


def gated_linear(
    x: Tensor, norm_scale: Tensor, norm_offset: Tensor, mask: Tensor, w: Tensor, gate_w: Tensor, b: Tensor | None, gate_b: Tensor | None
) -> Tensor:
    """With y = norm(x), x [r, n, c], mask [r, n], w, gate_w [c, u]: mask * (y w + b) * sigmoid(y gate_w + gate_b), as [r, u, n].

    Biases both or neither. Raises NotImplementedError for more than 256 channels, and where those of x do not lie side by side.
    """
    given = norm_scale, norm_offset, w, gate_w, b, gate_b
    if torch.is_grad_enabled():
        return GatedLinear.apply(x, mask, *given)  # type: ignore[no-any-return]
    return forward(x, mask, behind_one_norm(*given))
