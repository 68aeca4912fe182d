"""Triangle multiplication's product and its epilogue: both layer norms, the projection and the gate in one pass.

AF2 Suppl. Alg. 11, lines 3-4. The product stays as the batched matrix product leaves it, [u, r, n]: no transposed copy.
The backward computes the epilogue again, so that only the operands, the product and the rows as they came are kept.
hopper_triangle.py and its backward do the same on NVIDIA Hopper, where they fit.
Shapes: r rows, n tokens (all rows of the other operand), N all tokens of the rows, u channels of the product, c of the pair.
In kernels: T tokens of a tile, C and U the widths padded for a product, B columns of c at a time.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.onto import residual
from foldfit.ops.reference import triangle_product
from foldfit.ops.triton_attention import dot, on_hopper, precision_of
from foldfit.ops.triton_folded_norm import (
    PROGRAMS,
    Projections,
    Tile,
    backward_tile_of,
    hats,
    norm_gradient,
    normalised,
    padded,
    project,
    sigmoid,
    square,
    store,
    store_parts,
    tile_of,
)
from foldfit.ops.unread import is_unread

BEST = Tile(64, 128, 4, stages=2, programs=2 * PROGRAMS)
BEST_BACKWARD = Tile(32, 128, 8, stages=2)
"""Measured on an NVIDIA H100 (Triton 3.6, 2026-11-26), among 7 and 5."""


@triton.jit
def column_hats(o, token, tokens, u: tl.constexpr, U: tl.constexpr):
    """As `hats`, of o [u, N], tokens side by side in memory."""
    width = tl.arange(0, U)
    at = width.to(tl.int64)[None, :] * tokens + token[:, None]
    return normalised(tl.load(o + at, mask=(token < tokens)[:, None] & (width < u)[None, :], other=0.0).to(tl.float32), u, U)


@triton.jit
def epilogue_kernel(
    o, x, f, bias, out, tokens, n, first, x_r, x_n, c: tl.constexpr, u: tl.constexpr,
    T: tl.constexpr, C: tl.constexpr, U: tl.constexpr, B: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """out [N, c], columns from `first` on. A program reads its weights once and goes from tile to tile."""
    column = first + tl.arange(0, B)
    w = square(f, first, u, c, U, B)
    gate_w = square(f + u * c, first, c, c, C, B)
    for tile in tl.range(tl.program_id(0), tl.cdiv(tokens, T), tl.num_programs(0), num_stages=STAGES):
        token = tile * T + tl.arange(0, T)
        hat, _ = hats(x, token, tokens, n, x_r, x_n, c, C)
        # [T, B]
        gate = sigmoid(project(hat.to(w.dtype), gate_w, bias + c, first, c, B, PRECISION), w.dtype)
        hat, _ = column_hats(o, token, tokens, u, U)
        linear = project(hat.to(w.dtype), w, bias, first, c, B, PRECISION)
        at = token.to(tl.int64)[:, None] * c + column[None, :]
        tl.store(out + at, (linear * gate).to(out.dtype.element_ty), mask=(token < tokens)[:, None] & (column < c)[None, :])


@triton.jit
def epilogue_backward_kernel(
    d_out, o, x, f, bias, d_o, d_x, parts, tokens, n, first, x_r, x_n, c: tl.constexpr, u: tl.constexpr,
    T: tl.constexpr, C: tl.constexpr, U: tl.constexpr, B: tl.constexpr, ADD: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """What columns from `first` on contribute to d_o [u, N] and d_x [N, c], and their parts [programs, u + 1 + c + 1, c]."""
    channel = tl.arange(0, C)
    width = tl.arange(0, U)
    column = first + tl.arange(0, B)
    w = square(f, first, u, c, U, B)
    gate_w = square(f + u * c, first, c, c, C, B)
    of_w = tl.zeros([U, B], tl.float32)
    of_gate_w = tl.zeros([C, B], tl.float32)
    of_b = tl.zeros([B], tl.float32)
    of_gate_b = tl.zeros([B], tl.float32)
    for tile in tl.range(tl.program_id(0), tl.cdiv(tokens, T), tl.num_programs(0), num_stages=STAGES):
        token = tile * T + tl.arange(0, T)
        x_hat, x_inverse = hats(x, token, tokens, n, x_r, x_n, c, C)
        half_x = x_hat.to(w.dtype)
        # [T, B]
        gate = sigmoid(project(half_x, gate_w, bias + c, first, c, B, PRECISION), w.dtype)
        o_hat, o_inverse = column_hats(o, token, tokens, u, U)
        half_o = o_hat.to(w.dtype)
        linear = project(half_o, w, bias, first, c, B, PRECISION)
        at = token.to(tl.int64)[:, None] * c
        d = tl.load(d_out + at + column[None, :], mask=(token < tokens)[:, None] & (column < c)[None, :], other=0.0).to(tl.float32) * gate
        d_gate = d * linear * (1 - gate)
        half_d = d.to(w.dtype)
        half_gate = d_gate.to(w.dtype)
        of_b += tl.sum(d, 0)
        of_gate_b += tl.sum(d_gate, 0)
        of_w = dot(tl.trans(half_o), half_d, of_w, PRECISION)
        d_hat = norm_gradient(dot(half_d, tl.trans(w), None, PRECISION), o_hat, o_inverse, u)  # [T, U]
        at_o = width.to(tl.int64)[None, :] * tokens + token[:, None]
        store(d_o, at_o, d_hat, (token < tokens)[:, None] & (width < u)[None, :], ADD)
        of_gate_w = dot(tl.trans(half_x), half_gate, of_gate_w, PRECISION)
        d_hat = norm_gradient(dot(half_gate, tl.trans(gate_w), None, PRECISION), x_hat, x_inverse, c)  # [T, C]
        store(d_x, at + channel[None, :], d_hat, (token < tokens)[:, None] & (channel < c)[None, :], ADD)
    parts += tl.program_id(0) * ((u + 1 + c + 1) * c)
    store_parts(parts, of_w, of_b, first, u, c, U, B)
    store_parts(parts + (u + 1) * c, of_gate_w, of_gate_b, first, c, c, C, B)


def epilogue(o: Tensor, x: Tensor, projections: Projections) -> Tensor:
    """o [u, r, n], x [r, n, c] -> the update [r, n, c], or on Hopper the target that it was added to."""
    projections.check(x)
    (r, n, c), u = x.shape, len(o)
    f, bias = projections.fold()
    if on_hopper(x):
        from foldfit.ops import hopper_triangle

        if hopper_triangle.fits(x, o):
            end = residual((r, n, c))
            adds = end is not None and end.factors is None and hopper_triangle.fits(end.target)
            out, source, _ = end.take() if end and adds else (x.new_empty(r, n, c), None, None)
            hopper_triangle.epilogue(o, x, f, bias, out, source)
            return out
    out = x.new_empty(r, n, c)
    tile = tile_of(max(c, u), c, x.dtype, BEST)
    for first in range(0, c, tile.columns):
        epilogue_kernel[tile.grid(r * n)](
            o, x, f, bias, out, r * n, n, first, *x.stride()[:2], c, u,
            C=padded(c), U=padded(u), PRECISION=precision_of(x.dtype), **tile.options,
        )  # fmt: skip
    return out


def epilogue_backward(d_out: Tensor, o: Tensor, x: Tensor, projections: Projections) -> tuple[Tensor, Tensor, Projections]:
    """The gradients of the product, of the rows and of the parameters."""
    (r, n, c), u = x.shape, len(o)
    d_out, (f, bias), parts = d_out.contiguous(), projections.fold(), projections.parts(r * n)
    d_o, d_x = torch.empty_like(o), torch.empty_like(x, memory_format=torch.contiguous_format)
    if on_hopper(x):
        from foldfit.ops import hopper_triangle_backward

        if hopper_triangle_backward.fits(x, o):
            hopper_triangle_backward.epilogue_backward(d_out, o, x, f, bias, d_o, d_x, parts)
            return d_o, d_x, projections.reduce(parts)
    tile = backward_tile_of(max(c, u), c, x.dtype, BEST_BACKWARD)
    for first in range(0, c, tile.columns):
        epilogue_backward_kernel[(len(parts),)](
            d_out, o, x, f, bias, d_o, d_x, parts, r * n, n, first, *x.stride()[:2], c, u,
            C=padded(c), U=padded(u), ADD=first > 0, PRECISION=precision_of(x.dtype), **tile.options,
        )  # fmt: skip
    return d_o, d_x, projections.reduce(parts)


def behind_two_norms(
    scale: Any, offset: Any, center_scale: Any, center_offset: Any, w: Any, b: Any, gate_w: Any, gate_b: Any
) -> Projections:
    return Projections(w, b, center_scale, center_offset, gate_w, gate_b, scale, offset)


class TriangleUpdate(torch.autograd.Function):
    """Keeps its inputs and the product, [u, r, n]."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, x: Tensor, *given: Any) -> Tensor:
        o = triangle_product(a, b)
        ctx.save_for_backward(a, b, x, *given, o)
        if is_unread():
            return torch.empty_like(x, memory_format=torch.contiguous_format)
        return epilogue(o, x, behind_two_norms(*given))

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        a, b, x, *given, o = ctx.saved_tensors
        d_o, d_x, d = epilogue_backward(d_out, o, x, behind_two_norms(*given))
        del o, d_out
        d_a = torch.bmm(d_o, b.transpose(0, 1)).transpose(0, 1)
        d_b = torch.bmm(d_o.transpose(1, 2), a.transpose(0, 1)).transpose(0, 1)
        return d_a, d_b, d_x, d.gate_scale, d.gate_offset, d.scale, d.offset, d.w, d.b, d.gate_w, d.gate_b


def triangle_update(
    a: Tensor, b: Tensor, x: Tensor, norm_scale: Tensor, norm_offset: Tensor, center_scale: Tensor, center_offset: Tensor,
    w: Tensor, w_b: Tensor | None, gate_w: Tensor, gate_b: Tensor | None,
) -> Tensor:  # fmt: skip
    """a [r, u, n], b [R, u, n], x [r, R, c], norm_scale, norm_offset [c], center_scale, center_offset [u], w [u, c], gate_w [c, c] ->
    (center(sum over n of a b) w + w_b) * sigmoid(norm(x) gate_w + gate_b), [r, R, c]. Biases both or neither.

    Raises NotImplementedError for more than 256 channels, and where those of x do not lie side by side.
    """
    given = norm_scale, norm_offset, center_scale, center_offset, w, w_b, gate_w, gate_b
    if torch.is_grad_enabled():
        return TriangleUpdate.apply(a, b, x, *given)  # type: ignore[no-any-return]
    o = triangle_product(a, b)
    del a
    return epilogue(o, x, behind_two_norms(*given))


def triangle_end(
    o: Tensor, x: Tensor, norm_scale: Tensor, norm_offset: Tensor, center_scale: Tensor, center_offset: Tensor,
    w: Tensor, w_b: Tensor | None, gate_w: Tensor, gate_b: Tensor | None,
) -> Tensor:  # fmt: skip
    """The same of a product o [u, r, R] that is there, contiguous. Raises as `triangle_update`."""
    return epilogue(o, x, behind_two_norms(norm_scale, norm_offset, center_scale, center_offset, w, w_b, gate_w, gate_b))
