"""The mathematics in plain PyTorch: what every other kernel is tested against.

Layout changes that a matrix product needs are written out (`.contiguous()`), so that every byte is visible to the cost
specs: a library may otherwise copy behind our back on one device and not on another.
Shapes: see ops/namespace.py.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from foldfit.ops.gradients import BiasedLinear, GateQuery, Softmax, Triangle
from foldfit.ops.namespace import Ops


def masked_logit(dtype: torch.dtype) -> float:
    """The logit of a padded key: AF2's -1e9, or the largest that fp16 can hold a sum of."""
    return -3e4 if dtype == torch.float16 else -1e9


def add(target: Tensor, source: Tensor, update: Tensor, factors: Tensor | None) -> None:
    if factors is None:
        torch.add(source, update, out=target)
    else:
        torch.addcmul(source, update, factors, out=target)


def packed(x: Tensor, factors: Tensor | None) -> Tensor:
    return x.contiguous() if factors is None else torch.mul(x, factors, out=x.new_empty(x.shape))


def layer_norm(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    return F.layer_norm(x, scale.shape, scale, offset, eps=1e-5)


def flat_linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """As `linear`, but [elements, out]: in-place steps may follow, which on a view would cost autograd a copy."""
    flat, w = x.reshape(-1, x.shape[-1]), w.flatten(1)
    return flat @ w if b is None else BiasedLinear.apply(flat, w, b.flatten())  # type: ignore[no-any-return]


def linear(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    return flat_linear(x, w, b).view(*x.shape[:-1], *w.shape[1:])


def gate(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    return flat_linear(x, w, b).sigmoid_().view(*x.shape[:-1], *w.shape[1:])


def pair_bias(x: Tensor, norm_scale: Tensor, norm_offset: Tensor, w: Tensor) -> Tensor:
    y = layer_norm(x, norm_scale, norm_offset)
    return linear(y, w, None).transpose(1, 2).contiguous()


def update_by(attention: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """AF2 Suppl. Alg. 7, lines 1 and 7, around `attention`, which does lines 2-6 and has the rest's arguments as they come."""

    def update(
        x: Tensor, norm_scale: Tensor, norm_offset: Tensor, query_w: Tensor, key_w: Tensor, value_w: Tensor, gating_w: Tensor,
        gating_b: Tensor | None, output_w: Tensor, output_b: Tensor | None, bias: Tensor | None, mask: Tensor,
    ) -> Tensor:  # fmt: skip
        y = layer_norm(x, norm_scale, norm_offset)
        o = attention(y, query_w, key_w, value_w, gating_w, gating_b, bias, mask)
        return linear(o.flatten(2), output_w.flatten(0, 1), output_b)

    return update


def attention(
    x: Tensor, query_w: Tensor, key_w: Tensor, value_w: Tensor, gate_w: Tensor, gate_b: Tensor | None, bias: Tensor | None, mask: Tensor
) -> Tensor:
    """The soft-max is materialised, [r, h, n, k]."""
    q, k, v, gate = linear(x, query_w, None), linear(x, key_w, None), linear(x, value_w, None), linear(x, gate_w, gate_b)
    r, n, h, d = q.shape
    keys = k.permute(0, 2, 3, 1).reshape(r * h, d, n)
    logits = torch.bmm((q * d**-0.5).transpose(1, 2).reshape(r * h, n, d), keys).view(r, h, n, n)
    del keys
    if bias is not None:
        logits += bias.transpose(0, 1)
    logits += ((1 - mask) * masked_logit(q.dtype)).to(q.dtype)[:, None, None, :]
    weights = Softmax.apply(logits)
    del logits
    o = torch.bmm(weights.view(r * h, n, n), v.transpose(1, 2).reshape(r * h, n, d))
    del weights
    return gate.sigmoid() * o.view(r, h, n, d).transpose(1, 2)


def global_attention(
    x: Tensor, norm_scale: Tensor, norm_offset: Tensor, query_w: Tensor, key_w: Tensor, value_w: Tensor, gating_w: Tensor,
    gating_b: Tensor, output_w: Tensor, output_b: Tensor, mask: Tensor,
) -> Tensor:  # fmt: skip
    """AF2 Suppl. Alg. 19: one query per row and head, the mean's; one key head."""
    y = layer_norm(x, norm_scale, norm_offset)
    weights = mask.float() / (mask.sum(1, keepdim=True, dtype=torch.float32) + 1e-10)
    mean = torch.bmm(weights.to(y.dtype)[:, None], y)[:, 0]  # [r, c]
    o = one_query_attention(linear(mean, query_w, None), linear(y, key_w, None), linear(y, value_w, None), mask)
    gates = gate(y, gating_w, gating_b)  # [r, n, h, d]
    return linear(GateQuery.apply(gates.flatten(2), o.flatten(1)), output_w.flatten(0, 1), output_b)


def one_query_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """q [r, h, d], k, v [r, n, d], mask [r, n] -> [r, h, d]."""
    logits = torch.bmm(q * q.shape[-1] ** -0.5, k.transpose(1, 2))
    logits += ((1 - mask) * masked_logit(q.dtype)).to(q.dtype)[:, None, :]
    return torch.bmm(Softmax.apply(logits), v)


def single_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """AF3 Suppl. Alg. 24, lines 9-10: every row one token's query."""
    logits = torch.bmm((q * q.shape[-1] ** -0.5).transpose(0, 1), k.permute(1, 2, 0))  # [h, r, k]
    logits += bias.permute(2, 0, 1)
    logits += ((1 - mask) * masked_logit(q.dtype)).to(q.dtype)
    return torch.bmm(Softmax.apply(logits), v.transpose(0, 1)).transpose(0, 1)


def gated_linear(
    x: Tensor, norm_scale: Tensor, norm_offset: Tensor, mask: Tensor, w: Tensor, gate_w: Tensor, b: Tensor | None, gate_b: Tensor | None
) -> Tensor:
    x = layer_norm(x, norm_scale, norm_offset)
    y = flat_linear(x, w, b) * flat_linear(x, gate_w, gate_b).sigmoid_()
    y *= mask.reshape(-1, 1)
    return y.view(*x.shape[:-1], y.shape[-1]).transpose(1, 2).contiguous()


def triangle_update(
    a: Tensor, b: Tensor, x: Tensor, norm_scale: Tensor, norm_offset: Tensor, center_scale: Tensor, center_offset: Tensor,
    w: Tensor, w_b: Tensor | None, gate_w: Tensor, gate_b: Tensor | None,
) -> Tensor:  # fmt: skip
    """AF2 Suppl. Alg. 11, lines 3-4, one matrix product per channel."""
    o = Triangle.apply(a, b)
    del a
    o = layer_norm(o, center_scale, center_offset)
    return linear(o, w, w_b) * gate(layer_norm(x, norm_scale, norm_offset), gate_w, gate_b)


def triangle_product(a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a.transpose(0, 1), b.permute(1, 2, 0))


def triangle_end(
    o: Tensor, x: Tensor, norm_scale: Tensor, norm_offset: Tensor, center_scale: Tensor, center_offset: Tensor,
    w: Tensor, w_b: Tensor | None, gate_w: Tensor, gate_b: Tensor | None,
) -> Tensor:  # fmt: skip
    o = layer_norm(o.permute(1, 2, 0).contiguous(), center_scale, center_offset)
    return linear(o, w, w_b) * gate(layer_norm(x, norm_scale, norm_offset), gate_w, gate_b)


def masked_linear(x: Tensor, scale: Tensor, offset: Tensor, mask: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """AF2 Suppl. Alg. 10, lines 1-2."""
    x = layer_norm(x, scale, offset)
    y = flat_linear(x, w, b)
    y *= mask.reshape(-1, 1)
    return y.view(*x.shape[:-1], y.shape[-1]).transpose(1, 2).contiguous()


def outer_product(a: Tensor, b: Tensor, w: Tensor, w_b: Tensor, scale: Tensor) -> Tensor:
    """AF2 Suppl. Alg. 10, lines 3-4: the outer products are materialised, [r, R, o, p]."""
    (r, o, n), (rows, p, _) = a.shape, b.shape
    outer = (a.view(r * o, n) @ b.view(rows * p, n).t()).view(r, o, rows, p)
    outer = outer.transpose(1, 2).reshape(r, rows, o * p)
    y = flat_linear(outer, w.flatten(0, 1), w_b)
    del outer
    y *= scale.reshape(-1, 1)
    return y.view(r, rows, -1)


def relu_mlp(x: Tensor, norm_scale: Tensor, norm_offset: Tensor, up_w: Tensor, up_b: Tensor, down_w: Tensor, down_b: Tensor) -> Tensor:
    y = layer_norm(x, norm_scale, norm_offset)
    hidden = flat_linear(y, up_w, up_b).relu_()
    return flat_linear(hidden, down_w, down_b).view_as(x)


def swiglu(x: Tensor, norm_scale: Tensor, norm_offset: Tensor, gate_w: Tensor, up_w: Tensor, down_w: Tensor) -> Tensor:
    y = layer_norm(x, norm_scale, norm_offset)
    hidden = F.silu(flat_linear(y, gate_w, None)) * flat_linear(y, up_w, None)
    return flat_linear(hidden, down_w, None).view_as(x)


REFERENCE = Ops(
    add=add,
    packed=packed,
    layer_norm=layer_norm,
    linear=linear,
    gate=gate,
    pair_bias=pair_bias,
    attention=update_by(attention),
    global_attention=global_attention,
    single_attention=single_attention,
    gated_linear=gated_linear,
    triangle_update=triangle_update,
    triangle_product=triangle_product,
    triangle_end=triangle_end,
    masked_linear=masked_linear,
    outer_product=outer_product,
    relu_mlp=relu_mlp,
    swiglu=swiglu,
)
