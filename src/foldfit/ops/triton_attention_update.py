"""Gated attention from rows to their update: layer norm, projections, attention, output projection.

AF2 Suppl. Alg. 7, 8, 13, 14. Four projections are one matrix product, and the attention reads them where they are left. The backward
lets go of a tensor once nothing reads it any more, and computes the norm's result again.
Shapes: r rows, n tokens, N all of them, c channels, h heads, d head dim, e = h d.
"""

from typing import Any

import torch
from torch import Tensor

from foldfit.ops import triton_layer_norm, triton_output
from foldfit.ops.onto import residual
from foldfit.ops.triton_attention import attention_forward, check, leading_keys
from foldfit.ops.triton_attention_backward import differentiate
from foldfit.ops.triton_attention_gate import open_gate
from foldfit.ops.unread import is_unread


def project(x: Tensor, scale: Tensor, offset: Tensor, weights: tuple[Tensor, ...], gating_b: Tensor | None) -> tuple[Tensor, Tensor]:
    """x [r, n, c], weights of q, k, v and gate [c, h, d] -> theirs in one, [c, 4 e], and what they project to, [r, n, 4, h, d]."""
    (r, n, c), (_, h, d) = x.shape, weights[0].shape
    w = torch.cat([part.flatten(1) for part in weights], 1)
    y = triton_layer_norm.forward(x, scale, offset).view(-1, c)
    if gating_b is None:  # AF3 has none
        return w, (y @ w).view(r, n, 4, h, d)
    return w, torch.addmm(torch.cat([gating_b.new_zeros(3 * h * d), gating_b.flatten()]), y, w).view(r, n, 4, h, d)


def attend(
    x: Tensor, norm_scale: Tensor, norm_offset: Tensor, weights: tuple[Tensor, ...], gating_b: Tensor | None,
    bias: Tensor | None, mask: Tensor, keep: bool,
) -> tuple[Tensor, list[Any]]:  # fmt: skip
    """The attention's output [r, n, h, d], and all that a backward needs beside the arguments."""
    w, projected = project(x, norm_scale, norm_offset, weights, gating_b)
    q, k, v, gate = projected.unbind(2)
    check(q, k, v, gate, bias, mask)
    lead = leading_keys(mask)
    o, lse = attention_forward(q, k, v, gate, bias, mask, lead, keep)
    return o, [w, projected, lead, o, lse] if keep else []


def output(o: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """o [r, n, h, d], w [h, d, c] -> the update [r, n, c], or the target that it was added to."""
    (r, n), c = o.shape[:2], w.shape[2]
    end = residual((r, n, c))
    if end and triton_output.fits(o, c):
        return triton_output.output(o, w, b, end)
    flat, w = o.flatten(0, 1).flatten(1), w.flatten(0, 1)
    return (flat @ w if b is None else torch.addmm(b, flat, w)).view(r, n, c)


class AttentionUpdate(torch.autograd.Function):
    """Keeps its input, the projections and the attention's output."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, offset: Tensor, query_w: Tensor, key_w: Tensor, value_w: Tensor, gating_w: Tensor,
        gating_b: Tensor | None, output_w: Tensor, output_b: Tensor | None, bias: Tensor | None, mask: Tensor,
    ) -> Tensor:  # fmt: skip
        o, ctx.kept = attend(x, scale, offset, (query_w, key_w, value_w, gating_w), gating_b, bias, mask, True)
        ctx.biased = output_b is not None
        ctx.save_for_backward(x, scale, offset, output_w, bias, mask)
        if is_unread():
            return torch.empty_like(x, memory_format=torch.contiguous_format)
        return output(o, output_w, output_b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, offset, output_w, bias, mask = ctx.saved_tensors
        w, projected, lead, o, lse = ctx.kept
        del ctx.kept  # here, and not by autograd in the end: they are let go of one by one
        (h, d), c = o.shape[2:], x.shape[2]
        g = g.reshape(-1, c)
        d_output_w = (o.view(-1, h * d).t() @ g).view_as(output_w)
        grads, delta = torch.empty_like(projected), torch.empty_like(lse)
        d_gating_b, d_output_b = open_gate(g, output_w, o, projected, grads, delta, ctx.biased)
        del o
        q, k, v, gate = projected.unbind(2)
        d_bias = differentiate(grads, delta, q, k, v, bias, mask, lead, lse)
        del projected, q, k, v, gate, lse, delta
        flat = grads.view(-1, 4 * h * d)
        d_x = (flat @ w.t()).view_as(x)
        y = torch.empty_like(d_x)
        d_scale, d_offset = triton_layer_norm.differentiate(d_x, x, scale, d_x, offset, y).to(scale.dtype)
        d_w = (y.view(-1, c).t() @ flat).view(c, 4, h, d).unbind(1)
        return d_x, d_scale, d_offset, *d_w, d_gating_b, d_output_w, d_output_b, d_bias, None


def attention(
    x: Tensor, norm_scale: Tensor, norm_offset: Tensor, query_w: Tensor, key_w: Tensor, value_w: Tensor, gating_w: Tensor,
    gating_b: Tensor | None, output_w: Tensor, output_b: Tensor | None, bias: Tensor | None, mask: Tensor,
) -> Tensor:  # fmt: skip
    """x [r, n, c], bias [n, h, k] or None, mask [r, n] -> the update, [r, n, c]. Biases of gate and output both or neither.

    Errors: see triton_attention.py's `check`.
    """
    weights = query_w, key_w, value_w, gating_w
    if torch.is_grad_enabled():
        return AttentionUpdate.apply(  # type: ignore[no-any-return]
            x, norm_scale, norm_offset, *weights, gating_b, output_w, output_b, bias, mask
        )
    return output(attend(x, norm_scale, norm_offset, weights, gating_b, bias, mask, False)[0], output_w, output_b)
