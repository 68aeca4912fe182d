"""The Triton kernels as one namespace. Triton is imported when a kernel first runs: a machine without it can still plan for one."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from foldfit.ops.reference import REFERENCE


def add(target: Tensor, source: Tensor, update: Tensor, factors: Tensor | None) -> None:
    from foldfit.ops import triton_residual

    triton_residual.add(target, source, update, factors)


def packed(x: Tensor, factors: Tensor | None) -> Tensor:
    from foldfit.ops import triton_residual

    return triton_residual.packed(x, factors)


def layer_norm(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    from foldfit.ops import triton_layer_norm

    return triton_layer_norm.layer_norm(x, scale, offset)


def projected_attention(
    y: Tensor, query_w: Tensor, key_w: Tensor, value_w: Tensor, gating_w: Tensor, gating_b: Tensor | None,
    bias: Tensor | None, mask: Tensor, keep: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Four projections as one matrix product, and the attention where they left it. Returns o, and what a backward needs."""
    from foldfit.ops.triton_attention import attention_forward, check, leading_keys

    (r, n, c), (_, h, d) = y.shape, query_w.shape
    w = torch.cat([x.flatten(1) for x in (query_w, key_w, value_w, gating_w)], 1)
    if gating_b is None:  # AF3 has none
        projected = (y.reshape(-1, c) @ w).view(r, n, 4, h, d)
    else:
        offset = torch.cat([gating_b.new_zeros(3 * h * d), gating_b.flatten()])
        projected = torch.addmm(offset, y.reshape(-1, c), w).view(r, n, 4, h, d)
        del offset
    q, k, v, gate = projected.unbind(2)
    check(q, k, v, gate, bias, mask)
    lead = leading_keys(mask)
    o, lse = attention_forward(q, k, v, gate, bias, mask, lead, keep)
    return (o, w, projected, lead, lse) if keep else (o,)  # type: ignore[return-value]


class ProjectedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        o, w, projected, lead, lse = projected_attention(*given, True)  # type: ignore[call-arg]
        y, *_, bias, mask = given
        ctx.biased = given[5] is not None
        ctx.save_for_backward(y, w, projected, bias, mask, lead, o, lse)
        return o

    @staticmethod
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        from foldfit.ops.triton_attention_backward import attention_backward

        y, w, projected, bias, mask, lead, o, lse = ctx.saved_tensors
        c, (h, d) = y.shape[2], o.shape[2:]
        q, k, v, gate = projected.unbind(2)
        grads, d_bias = attention_backward(do, q, k, v, gate, bias, mask, lead, o, lse)
        grads = grads.view(-1, 4 * h * d)
        d_w = (y.reshape(-1, c).t() @ grads).view(c, 4, h, d).unbind(1)
        d_gating_b = (grads.new_ones(1, len(grads)) @ grads[:, 3 * h * d :]).view(h, d) if ctx.biased else None
        return (grads @ w.t()).view_as(y), *d_w, d_gating_b, d_bias, None


def attention(
    y: Tensor, query_w: Tensor, key_w: Tensor, value_w: Tensor, gating_w: Tensor, gating_b: Tensor | None, bias: Tensor | None, mask: Tensor
) -> Tensor:
    given = y, query_w, key_w, value_w, gating_w, gating_b, bias, mask
    return ProjectedAttention.apply(*given) if torch.is_grad_enabled() else projected_attention(*given, False)[0]


def gated_linear(
    x: Tensor, norm_scale: Tensor, norm_offset: Tensor, mask: Tensor, w: Tensor, gate_w: Tensor, b: Tensor | None, gate_b: Tensor | None
) -> Tensor:
    from foldfit.ops import triton_gated_linear

    return triton_gated_linear.gated_linear(x, norm_scale, norm_offset, mask, w, gate_w, b, gate_b)


def triangle_update(
    a: Tensor, b: Tensor, x: Tensor, norm_scale: Tensor, norm_offset: Tensor, center_scale: Tensor, center_offset: Tensor,
    w: Tensor, w_b: Tensor | None, gate_w: Tensor, gate_b: Tensor | None,
) -> Tensor:  # fmt: skip
    from foldfit.ops import triton_triangle

    left = [a]
    del a  # let go of once the product is made
    return triton_triangle.triangle_update(left.pop(), b, x, norm_scale, norm_offset, center_scale, center_offset, w, w_b, gate_w, gate_b)


def global_attention(
    x: Tensor, norm_scale: Tensor, norm_offset: Tensor, query_w: Tensor, key_w: Tensor, value_w: Tensor, gating_w: Tensor,
    gating_b: Tensor, output_w: Tensor, output_b: Tensor, mask: Tensor,
) -> Tensor:  # fmt: skip
    from foldfit.ops import triton_global_backward

    return triton_global_backward.global_attention(
        x, norm_scale, norm_offset, query_w, key_w, value_w, gating_w, gating_b, output_w, output_b, mask
    )


def relu_mlp(x: Tensor, norm_scale: Tensor, norm_offset: Tensor, up_w: Tensor, up_b: Tensor, down_w: Tensor, down_b: Tensor) -> Tensor:
    from foldfit.ops import triton_transition_backward

    return triton_transition_backward.transition(x, norm_scale, norm_offset, down_w, up_b, down_b, up_w)


def swiglu(x: Tensor, norm_scale: Tensor, norm_offset: Tensor, gate_w: Tensor, up_w: Tensor, down_w: Tensor) -> Tensor:
    from foldfit.ops import triton_transition_backward

    return triton_transition_backward.transition(x, norm_scale, norm_offset, down_w, None, None, up_w, gate_w)


def masked_linear(x: Tensor, scale: Tensor, offset: Tensor, mask: Tensor, w: Tensor, b: Tensor) -> Tensor:
    from foldfit.ops import triton_masked_linear

    return triton_masked_linear.masked_linear(x, scale, offset, mask, w, b)


def outer_product(a: Tensor, b: Tensor, w: Tensor, w_b: Tensor, scale: Tensor) -> Tensor:
    from foldfit.ops import triton_outer_product

    return triton_outer_product.outer_product(a, b, w, w_b, scale)


TRITON = replace(
    REFERENCE,
    add=add,
    packed=packed,
    layer_norm=layer_norm,
    attention=attention,
    global_attention=global_attention,
    gated_linear=gated_linear,
    triangle_update=triangle_update,
    relu_mlp=relu_mlp,
    swiglu=swiglu,
    masked_linear=masked_linear,
    outer_product=outer_product,
)
