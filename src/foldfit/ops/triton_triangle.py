"""Triangle multiplication's product and its epilogue: layer norm over channels, projection and gate in one pass.

AF2 Suppl. Alg. 11, lines 3-4. The product stays as the batched matrix product leaves it, [u, r, n]: no transposed copy.
The backward recomputes the epilogue, so that only the operands, the product and the normalised input are kept.
Shapes: r rows, n tokens (all rows of the other operand), u channels of the product, c of the pair.
In kernels: T tokens of a tile, C and U the widths padded for a product.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.triton_attention import dot, precision_of
from foldfit.ops.triton_gated_linear import check, padded, tokens_of
from foldfit.ops.triton_layer_norm import PROGRAMS, normalised

TOKENS_EACH = 512
"""Of such a program, at least: its sums are then hardly anything beside what it reads."""


@triton.jit
def epilogue(
    o, y, scale, offset, w, b, gate_w, gate_b, row, token, rows, n, c, u, T: tl.constexpr, C: tl.constexpr, U: tl.constexpr,
    HAS_B: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Normalised product [T, U] in storage precision, its projection and the gate after its sigmoid, [T, C] in fp32."""
    channel = tl.arange(0, C)
    width = tl.arange(0, U)
    # [T, U], tokens side by side in memory
    at = (width.to(tl.int64) * rows * n)[None, :] + (row * n + token)[:, None]
    b_o = tl.load(o + at, mask=(token < n)[:, None] & (width < u)[None, :], other=0.0)
    hat, _ = normalised(b_o.to(tl.float32), u, U)
    hat = hat * tl.load(scale + width, mask=width < u, other=0.0).to(tl.float32)[None, :]
    hat += tl.load(offset + width, mask=width < u, other=0.0).to(tl.float32)[None, :]
    hat = hat.to(b_o.dtype)
    at_w = width[:, None] * c + channel[None, :]
    linear = dot(hat, tl.load(w + at_w, mask=(width < u)[:, None] & (channel < c)[None, :], other=0.0), None, PRECISION)
    # [T, C]
    at_y = (row * n + token)[:, None] * c + channel[None, :]
    b_y = tl.load(y + at_y, mask=(token < n)[:, None] & (channel < c)[None, :], other=0.0)
    at_gate = channel[:, None] * c + channel[None, :]
    gate = dot(b_y, tl.load(gate_w + at_gate, mask=(channel < c)[:, None] & (channel < c)[None, :], other=0.0), None, PRECISION)
    if HAS_B:
        linear += tl.load(b + channel, mask=channel < c, other=0.0).to(tl.float32)[None, :]
        gate += tl.load(gate_b + channel, mask=channel < c, other=0.0).to(tl.float32)[None, :]
    return hat, linear, tl.sigmoid(gate)


@triton.jit
def epilogue_kernel(
    o, y, scale, offset, w, b, gate_w, gate_b, out, rows, n, c, u,
    T: tl.constexpr, C: tl.constexpr, U: tl.constexpr, HAS_B: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out [r, n, c]."""
    tiles = tl.cdiv(n, T)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    token = tl.program_id(0) % tiles * T + tl.arange(0, T)
    _, linear, gate = epilogue(o, y, scale, offset, w, b, gate_w, gate_b, row, token, rows, n, c, u, T, C, U, HAS_B, PRECISION)
    channel = tl.arange(0, C)
    at = (row * n + token)[:, None] * c + channel[None, :]
    tl.store(out + at, (linear * gate).to(out.dtype.element_ty), mask=(token < n)[:, None] & (channel < c)[None, :])


@triton.jit
def epilogue_backward_kernel(
    d_out, o, y, scale, offset, w, b, gate_w, gate_b, grads, hats, rows, n, c, u,
    T: tl.constexpr, C: tl.constexpr, U: tl.constexpr, HAS_B: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """grads [r, n, 2, c]: of the projection and of the gate before its sigmoid; hats [r, n, u]: what was projected."""
    tiles = tl.cdiv(n, T)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    token = tl.program_id(0) % tiles * T + tl.arange(0, T)
    hat, linear, gate = epilogue(o, y, scale, offset, w, b, gate_w, gate_b, row, token, rows, n, c, u, T, C, U, HAS_B, PRECISION)
    width = tl.arange(0, U)
    tl.store(hats + (row * n + token)[:, None] * u + width[None, :], hat, mask=(token < n)[:, None] & (width < u)[None, :])
    channel = tl.arange(0, C)
    inside = (token < n)[:, None] & (channel < c)[None, :]
    # [T, C]
    d = tl.load(d_out + (row * n + token)[:, None] * c + channel[None, :], mask=inside, other=0.0).to(tl.float32) * gate
    at = (row * n + token)[:, None] * (2 * c) + channel[None, :]
    tl.store(grads + at, d.to(grads.dtype.element_ty), mask=inside)
    tl.store(grads + at + c, (d * linear * (1 - gate)).to(grads.dtype.element_ty), mask=inside)


@triton.jit
def norm_backward_kernel(d_hat, o, scale, d_o, sums, tokens, u, T: tl.constexpr, U: tl.constexpr):
    """d_hat [tokens, u], o [u, tokens] -> d_o [u, tokens]; sums [programs, 2, u] in fp32, of the scale's and the offset's gradients."""
    width = tl.arange(0, U)
    real = width < u
    # [U]
    b_scale = tl.load(scale + width, mask=real, other=0.0).to(tl.float32)
    of_scale = tl.zeros([U], tl.float32)
    of_offset = tl.zeros([U], tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(tokens, T), tl.num_programs(0)):
        token = tl.cast(tile, tl.int64) * T + tl.arange(0, T)
        inside = (token < tokens)[:, None] & real[None, :]
        at = width.to(tl.int64)[None, :] * tokens + token[:, None]
        # [T, U]
        d = tl.load(d_hat + token[:, None] * u + width[None, :], mask=inside, other=0.0).to(tl.float32)
        hat, inverse = normalised(tl.load(o + at, mask=inside, other=0.0).to(tl.float32), u, U)
        of_scale += tl.sum(d * hat, 0)
        of_offset += tl.sum(d, 0)
        d *= b_scale[None, :]
        d = inverse[:, None] * (d - (tl.sum(d, 1) / u)[:, None] - hat * (tl.sum(d * hat, 1) / u)[:, None])
        tl.store(d_o + at, d.to(d_o.dtype.element_ty), mask=inside)
    tl.store(sums + tl.program_id(0) * 2 * u + width, of_scale, mask=real)
    tl.store(sums + tl.program_id(0) * 2 * u + u + width, of_offset, mask=real)


def options(c: int, u: int, dtype: torch.dtype) -> dict[str, Any]:
    return {"T": tokens_of(c, u, dtype), "C": padded(c), "U": padded(u), "PRECISION": precision_of(dtype), "num_warps": 4}


def forward(
    a: Tensor, b: Tensor, y: Tensor, scale: Tensor, offset: Tensor, w: Tensor, w_b: Tensor | None, gate_w: Tensor, gate_b: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The update, and the product [u, r, n] behind it."""
    check(y, w)
    (r, n, c), u = y.shape, w.shape[0]
    o = torch.bmm(a.transpose(0, 1), b.permute(1, 2, 0))
    del a
    out = torch.empty_like(y)
    t = tokens_of(c, u, y.dtype)
    epilogue_kernel[(r * triton.cdiv(n, t),)](
        o, y, scale, offset, w, w_b, gate_w, gate_b, out, r, n, c, u, HAS_B=w_b is not None, **options(c, u, y.dtype)
    )
    return out, o


class TriangleUpdate(torch.autograd.Function):
    """Keeps its inputs and the product, [u, r, n]."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        out, o = forward(*given)
        ctx.save_for_backward(*given, o)
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        a, b, y, scale, offset, w, w_b, gate_w, gate_b, o = ctx.saved_tensors
        (r, n, c), u = y.shape, w.shape[0]
        t = tokens_of(c, u, y.dtype)
        grads, hats = y.new_empty(r * n, 2 * c), y.new_empty(r * n, u)
        epilogue_backward_kernel[(r * triton.cdiv(n, t),)](
            d_out.contiguous(), o, y, scale, offset, w, w_b, gate_w, gate_b, grads, hats, r, n, c, u,
            HAS_B=w_b is not None, **options(c, u, y.dtype),
        )  # fmt: skip
        del d_out
        of_linear, of_gate = grads[:, :c], grads[:, c:]
        d_w, d_gate_w = hats.t() @ of_linear, y.reshape(-1, c).t() @ of_gate
        del hats
        d_b, d_gate_b = (grads.new_ones(1, len(grads)) @ grads)[0].split(c) if w_b is not None else (None, None)
        d_y = (of_gate @ gate_w.t()).view_as(y)
        d_hat = of_linear @ w.t()
        del grads, of_linear, of_gate
        d_o = torch.empty_like(o)
        programs = min(PROGRAMS, max(1, r * n // TOKENS_EACH))
        sums = torch.empty(programs, 2, u, dtype=torch.float32, device=y.device)
        norm_backward_kernel[(programs,)](d_hat, o, scale, d_o, sums, r * n, u, T=t, U=padded(u), num_warps=4)
        del d_hat
        d_scale, d_offset = sums.sum(0).to(scale.dtype)
        d_a = torch.bmm(d_o, b.transpose(0, 1)).transpose(0, 1)
        d_other = torch.bmm(d_o.transpose(1, 2), a.transpose(0, 1)).transpose(0, 1)
        return d_a, d_other, d_y, d_scale, d_offset, d_w, d_b, d_gate_w, d_gate_b


def triangle_update(
    a: Tensor, b: Tensor, y: Tensor, scale: Tensor, offset: Tensor, w: Tensor, w_b: Tensor | None, gate_w: Tensor, gate_b: Tensor | None
) -> Tensor:
    """a [r, u, n], b [R, u, n], y [r, R, c] normalised, the norm's scale and offset [u], w [u, c], gate_w [c, c] ->
    (norm(sum over n of a b) w + w_b) * sigmoid(y gate_w + gate_b), [r, R, c]. Biases both or neither; at most 256 channels."""
    if torch.is_grad_enabled():
        return TriangleUpdate.apply(a, b, y, scale, offset, w, w_b, gate_w, gate_b)  # type: ignore[no-any-return]
    return forward(a, b, y, scale, offset, w, w_b, gate_w, gate_b)[0]
