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


def tokens_of(c: int, u: int, dtype: torch.dtype) -> int:
    """Tokens of a tile: what leaves both accumulators in registers."""
    return 16 if dtype == torch.float32 or max(c, u) > 128 else 64


def padded(width: int) -> int:
    return max(16, triton.next_power_of_2(width))


@triton.jit
def projections(y, w, gate_w, b, gate_b, c, u, C: tl.constexpr, U: tl.constexpr, HAS_B: tl.constexpr, PRECISION: tl.constexpr):
    """Both products of a tile y [T, C]: linear and gate before its sigmoid, [T, U] in fp32."""
    channel = tl.arange(0, C)
    out = tl.arange(0, U)
    inside = (channel < c)[:, None] & (out < u)[None, :]
    at = channel[:, None] * u + out[None, :]
    # [T, U]
    linear = dot(y, tl.load(w + at, mask=inside, other=0.0), None, PRECISION)
    gate = dot(y, tl.load(gate_w + at, mask=inside, other=0.0), None, PRECISION)
    if HAS_B:
        linear += tl.load(b + out, mask=out < u, other=0.0).to(tl.float32)[None, :]
        gate += tl.load(gate_b + out, mask=out < u, other=0.0).to(tl.float32)[None, :]
    return linear, gate


@triton.jit
def gated_kernel(
    y, mask, w, gate_w, b, gate_b, out, n, c, u, mask_r, mask_n,
    T: tl.constexpr, C: tl.constexpr, U: tl.constexpr, HAS_B: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out [r, u, n]."""
    tiles = tl.cdiv(n, T)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    token = tl.program_id(0) % tiles * T + tl.arange(0, T)
    channel = tl.arange(0, C)
    # [T, C]
    b_y = tl.load(y + (row * n + token)[:, None] * c + channel[None, :], mask=(token < n)[:, None] & (channel < c)[None, :], other=0.0)
    linear, gate = projections(b_y, w, gate_w, b, gate_b, c, u, C, U, HAS_B, PRECISION)
    real = tl.load(mask + row * mask_r + token * mask_n, mask=token < n, other=0.0).to(tl.float32)
    linear *= tl.sigmoid(gate) * real[:, None]
    width = tl.arange(0, U)
    at = row * u * n + width[None, :].to(tl.int64) * n + token[:, None]
    tl.store(out + at, linear.to(out.dtype.element_ty), mask=(token < n)[:, None] & (width < u)[None, :])


@triton.jit
def gated_backward_kernel(
    d_out, y, mask, w, gate_w, b, gate_b, grads, n, c, u, mask_r, mask_n, d_r, d_u,
    T: tl.constexpr, C: tl.constexpr, U: tl.constexpr, HAS_B: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """grads [r, n, 2, u]: of the linear projection and of the gate before its sigmoid."""
    tiles = tl.cdiv(n, T)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    token = tl.program_id(0) % tiles * T + tl.arange(0, T)
    channel = tl.arange(0, C)
    width = tl.arange(0, U)
    inside = (token < n)[:, None] & (width < u)[None, :]
    # [T, C]
    b_y = tl.load(y + (row * n + token)[:, None] * c + channel[None, :], mask=(token < n)[:, None] & (channel < c)[None, :], other=0.0)
    linear, gate = projections(b_y, w, gate_w, b, gate_b, c, u, C, U, HAS_B, PRECISION)
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


def forward(y: Tensor, mask: Tensor, w: Tensor, gate_w: Tensor, b: Tensor | None, gate_b: Tensor | None) -> Tensor:
    check(y, w)
    (r, n, c), u = y.shape, w.shape[1]
    y, t = y.contiguous(), tokens_of(c, u, y.dtype)
    out = y.new_empty(r, u, n)
    gated_kernel[(r * triton.cdiv(n, t),)](
        y, mask, w, gate_w, b, gate_b, out, n, c, u, *mask.stride(),
        T=t, C=padded(c), U=padded(u), HAS_B=b is not None, PRECISION=precision_of(y.dtype), num_warps=4,
    )  # fmt: skip
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
        t = tokens_of(c, u, y.dtype)
        grads = y.new_empty(r * n, 2 * u)
        gated_backward_kernel[(r * triton.cdiv(n, t),)](
            d_out, y, mask, w, gate_w, b, gate_b, grads, n, c, u, *mask.stride(), d_out.stride(0), d_out.stride(1),
            T=t, C=padded(c), U=padded(u), HAS_B=b is not None, PRECISION=precision_of(y.dtype), num_warps=4,
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
