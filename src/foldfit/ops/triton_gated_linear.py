"""The gated projections of triangle multiplication in one pass: two products, the sigmoid, the mask and the change of layout.

AF2 Suppl. Alg. 11, line 2. The backward recomputes both products, so that only the normalised input is kept.
Shapes: r rows, n tokens, c channels in, u out. In kernels: T tokens of a tile, C and U the widths padded for a product.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.triton_attention import dot, precision_of

WIDEST = 256
"""Channels that a program holds at once."""
RESIDENT = 264
"""Programs in half precision, two for each of the 132 multiprocessors of an H200: each reads the weights once and then goes from tile to
tile. Measured there, with 8 warps: 0.62 of the time of a program a tile."""


def tokens_of(c: int, u: int, dtype: torch.dtype) -> int:
    """Tokens of a tile: what leaves both accumulators in registers."""
    return 16 if dtype == torch.float32 or max(c, u) > 128 else 64


def padded(width: int) -> int:
    return max(16, triton.next_power_of_2(width))


@triton.jit
def weights(w, gate_w, c, u, C: tl.constexpr, U: tl.constexpr):
    channel = tl.arange(0, C)
    out = tl.arange(0, U)
    inside = (channel < c)[:, None] & (out < u)[None, :]
    at = channel[:, None] * u + out[None, :]
    # [C, U]
    return tl.load(w + at, mask=inside, other=0.0), tl.load(gate_w + at, mask=inside, other=0.0)


@triton.jit
def projections(y, b_w, b_gate_w, b, gate_b, u, U: tl.constexpr, HAS_B: tl.constexpr, PRECISION: tl.constexpr):
    """Both products of a tile y [T, C]: linear and gate before its sigmoid, [T, U] in fp32."""
    out = tl.arange(0, U)
    # [T, U]
    linear = dot(y, b_w, None, PRECISION)
    gate = dot(y, b_gate_w, None, PRECISION)
    if HAS_B:
        linear += tl.load(b + out, mask=out < u, other=0.0).to(tl.float32)[None, :]
        gate += tl.load(gate_b + out, mask=out < u, other=0.0).to(tl.float32)[None, :]
    return linear, gate


@triton.jit
def gated_kernel(
    y, mask, w, gate_w, b, gate_b, out, r, n, c, u, mask_r, mask_n,
    T: tl.constexpr, C: tl.constexpr, U: tl.constexpr, HAS_B: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out [r, u, n]."""
    channel = tl.arange(0, C)
    width = tl.arange(0, U)
    b_w, b_gate_w = weights(w, gate_w, c, u, C, U)
    tiles = tl.cdiv(n, T)
    for tile in range(tl.program_id(0), tiles * r, tl.num_programs(0)):
        row = tl.cast(tile // tiles, tl.int64)
        token = tile % tiles * T + tl.arange(0, T)
        # [T, C]
        at_y = (row * n + token)[:, None] * c + channel[None, :]
        b_y = tl.load(y + at_y, mask=(token < n)[:, None] & (channel < c)[None, :], other=0.0)
        linear, gate = projections(b_y, b_w, b_gate_w, b, gate_b, u, U, HAS_B, PRECISION)
        real = tl.load(mask + row * mask_r + token * mask_n, mask=token < n, other=0.0).to(tl.float32)
        linear *= tl.sigmoid(gate) * real[:, None]
        at = row * u * n + width[None, :].to(tl.int64) * n + token[:, None]
        tl.store(out + at, linear.to(out.dtype.element_ty), mask=(token < n)[:, None] & (width < u)[None, :])


@triton.jit
def gated_backward_kernel(
    d_out, y, mask, w, gate_w, b, gate_b, grads, r, n, c, u, mask_r, mask_n, d_r, d_u,
    T: tl.constexpr, C: tl.constexpr, U: tl.constexpr, HAS_B: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """grads [r, n, 2, u]: of the linear projection and of the gate before its sigmoid."""
    channel = tl.arange(0, C)
    width = tl.arange(0, U)
    b_w, b_gate_w = weights(w, gate_w, c, u, C, U)
    tiles = tl.cdiv(n, T)
    for tile in range(tl.program_id(0), tiles * r, tl.num_programs(0)):
        row = tl.cast(tile // tiles, tl.int64)
        token = tile % tiles * T + tl.arange(0, T)
        inside = (token < n)[:, None] & (width < u)[None, :]
        # [T, C]
        at_y = (row * n + token)[:, None] * c + channel[None, :]
        b_y = tl.load(y + at_y, mask=(token < n)[:, None] & (channel < c)[None, :], other=0.0)
        linear, gate = projections(b_y, b_w, b_gate_w, b, gate_b, u, U, HAS_B, PRECISION)
        real = tl.load(mask + row * mask_r + token * mask_n, mask=token < n, other=0.0).to(tl.float32)
        # [T, U]
        d = tl.load(d_out + row * d_r + width[None, :].to(tl.int64) * d_u + token[:, None], mask=inside, other=0.0).to(tl.float32)
        gate = tl.sigmoid(gate)
        d *= real[:, None] * gate
        at = (row * n + token)[:, None] * (2 * u) + width[None, :]
        tl.store(grads + at, d.to(grads.dtype.element_ty), mask=inside)
        tl.store(grads + at + u, (d * linear * (1 - gate)).to(grads.dtype.element_ty), mask=inside)


def check(y: Tensor, w: Tensor) -> None:
    if max(w.shape) > WIDEST:
        raise NotImplementedError(f"gated projections of at most {WIDEST} channels. Got {list(w.shape)}.")
    if y.shape[0] * y.shape[1] >= 2**31:
        raise NotImplementedError(f"{list(y.shape)} is more than a grid holds. Use fewer rows.")


def launch(r: int, n: int, c: int, u: int, dtype: torch.dtype) -> tuple[tuple[int], dict[str, int]]:
    """The grid, and the tile with its warps."""
    t = tokens_of(c, u, dtype)
    tiles = r * triton.cdiv(n, t)
    half = dtype != torch.float32
    return (min(RESIDENT, tiles) if half else tiles,), {"T": t, "C": padded(c), "U": padded(u), "num_warps": 8 if half and t > 16 else 4}


def forward(y: Tensor, mask: Tensor, w: Tensor, gate_w: Tensor, b: Tensor | None, gate_b: Tensor | None) -> Tensor:
    check(y, w)
    (r, n, c), u = y.shape, w.shape[1]
    y, (grid, tile) = y.contiguous(), launch(r, n, c, u, y.dtype)
    out = y.new_empty(r, u, n)
    gated_kernel[grid](
        y, mask, w, gate_w, b, gate_b, out, r, n, c, u, *mask.stride(), HAS_B=b is not None, PRECISION=precision_of(y.dtype), **tile
    )
    return out


class GatedLinear(torch.autograd.Function):
    """Keeps its inputs alone."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, mask: Tensor, w: Tensor, gate_w: Tensor, b: Tensor | None, gate_b: Tensor | None) -> Tensor:
        ctx.save_for_backward(y, mask, w, gate_w, b, gate_b)
        return forward(y, mask, w, gate_w, b, gate_b)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        y, mask, w, gate_w, b, gate_b = ctx.saved_tensors
        (r, n, c), u = y.shape, w.shape[1]
        if d_out.stride(2) != 1:
            d_out = d_out.contiguous()
        grid, tile = launch(r, n, c, u, y.dtype)
        grads = y.new_empty(r * n, 2 * u)
        gated_backward_kernel[grid](
            d_out, y, mask, w, gate_w, b, gate_b, grads, r, n, c, u, *mask.stride(), d_out.stride(0), d_out.stride(1),
            HAS_B=b is not None, PRECISION=precision_of(y.dtype), **tile,
        )  # fmt: skip
        del d_out
        d_y = (grads @ torch.cat([w, gate_w], 1).t()).view_as(y)
        d_w, d_gate_w = (y.reshape(-1, c).t() @ grads).split(u, 1)
        d_b, d_gate_b = (grads.new_ones(1, len(grads)) @ grads)[0].split(u) if b is not None else (None, None)
        return d_y, None, d_w, d_gate_w, d_b, d_gate_b


def gated_linear(y: Tensor, mask: Tensor, w: Tensor, gate_w: Tensor, b: Tensor | None, gate_b: Tensor | None) -> Tensor:
    """mask * (y w + b) * sigmoid(y gate_w + gate_b) of y [r, n, c], mask [r, n], w, gate_w [c, u], as [r, u, n].

    Biases both or neither. Raises NotImplementedError for more than 256 channels.
    """
    if torch.is_grad_enabled():
        return GatedLinear.apply(y, mask, w, gate_w, b, gate_b)  # type: ignore[no-any-return]
    return forward(y, mask, w, gate_w, b, gate_b)
