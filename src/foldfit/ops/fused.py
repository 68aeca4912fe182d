"""The Triton kernels as one namespace. Triton is imported when a kernel first runs: a machine without it can still plan for one."""

from dataclasses import replace

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


def pair_bias(x: Tensor, norm_scale: Tensor, norm_offset: Tensor, w: Tensor) -> Tensor:
    from foldfit.ops import triton_pair_bias

    return triton_pair_bias.pair_bias(x, norm_scale, norm_offset, w)


def attention(
    x: Tensor, norm_scale: Tensor, norm_offset: Tensor, query_w: Tensor, key_w: Tensor, value_w: Tensor, gating_w: Tensor,
    gating_b: Tensor | None, output_w: Tensor, output_b: Tensor | None, bias: Tensor | None, mask: Tensor,
) -> Tensor:  # fmt: skip
    from foldfit.ops import triton_attention_update

    return triton_attention_update.attention(
        x, norm_scale, norm_offset, query_w, key_w, value_w, gating_w, gating_b, output_w, output_b, bias, mask
    )


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


def triangle_end(
    o: Tensor, x: Tensor, norm_scale: Tensor, norm_offset: Tensor, center_scale: Tensor, center_offset: Tensor,
    w: Tensor, w_b: Tensor | None, gate_w: Tensor, gate_b: Tensor | None,
) -> Tensor:  # fmt: skip
    from foldfit.ops import triton_triangle

    return triton_triangle.triangle_end(o, x, norm_scale, norm_offset, center_scale, center_offset, w, w_b, gate_w, gate_b)


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
    pair_bias=pair_bias,
    attention=attention,
    global_attention=global_attention,
    gated_linear=gated_linear,
    triangle_update=triangle_update,
    triangle_end=triangle_end,
    relu_mlp=relu_mlp,
    swiglu=swiglu,
    masked_linear=masked_linear,
    outer_product=outer_product,
)
