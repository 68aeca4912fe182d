"""What a sub-module may ask of a kernel provider. Shapes: r rows, n other axis, k keys, c channels, h heads, d head dim,
u hidden, o p outer-product channels, z channels out, R all rows.

`attention`, `global_attention`, `triangle_update`, `triangle_end`, `outer_product`, `relu_mlp` and `swiglu` make a whole update: they
may add it themselves (onto.py), or leave it out where nobody reads it (unread.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Ops:
    """One provider's functions. Replace a field to replace a kernel: `dataclasses.replace(REFERENCE, attention=...)`."""

    add: Callable[[Tensor, Tensor, Tensor, Tensor | None], None]
    """(target [r, n, c] or [r, c], source and update of its shape, dropout's factors [1 or r, 1 or n, c] or None): target = source +
    update * factors, whatever their strides; source may be target"""
    packed: Callable[[Tensor, Tensor | None], Tensor]
    """(x [r, n, c] or [r, c], dropout's factors or None) -> x * factors, contiguous; x itself where there is nothing to do"""
    layer_norm: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(x [..., c], scale [c], offset [c]) -> [..., c]"""
    linear: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """(x [..., c], w [c, *out], b [*out] or None) -> [..., *out]"""
    gate: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """sigmoid(linear(x, w, b))"""
    pair_bias: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """(x [r, n, c], the norm's scale, offset [c], w [c, h]) -> norm(x) w, as [r, h, n]"""
    attention: Callable[
        [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None, Tensor], Tensor
    ]
    """(x [r, n, c], the norm's scale, offset [c], query_w, key_w, value_w, gating_w [c, h, d], gating_b [h, d] or None, output_w [h, d, c],
    output_b [c] or None, bias [n, h, k] or None, mask [r, k]) -> the whole update, [r, n, c]; gating_b and output_b both or neither"""
    global_attention: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    """(x [r, n, c], the norm's scale, offset [c], query_w [c, h, d], key_w, value_w [c, d], gating_w [c, h, d], gating_b [h, d],
    output_w [h, d, c], output_b [c], mask [r, n]) -> the whole update, [r, n, c]"""
    single_attention: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    """(q [r, h, d], k, v [k, h, d], bias [r, k, h], mask [k]) -> [r, h, d]"""
    gated_linear: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
    """(x [r, n, c], norm_scale, norm_offset [c], mask [r, n], w, gate_w [c, u], b, gate_b [u] or None) -> with y = norm(x):
    mask * (y w + b) * sigmoid(y gate_w + gate_b), as [r, u, n], whatever its strides"""
    triangle_update: Callable[
        [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor | None], Tensor
    ]
    """(a [r, u, n], b [R, u, n], x [r, R, c], norm_scale, norm_offset [c], center_scale, center_offset [u], w [u, c], w_b [c] or None,
    gate_w [c, c], gate_b [c] or None) -> (center(sum over n of a b) w + w_b) * sigmoid(norm(x) gate_w + gate_b), [r, R, c]"""
    triangle_product: Callable[[Tensor, Tensor], Tensor]
    """(a [r, u, n], b [R, u, n]) -> sum over n of a b, as [u, r, R]"""
    triangle_end: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor | None], Tensor]
    """(that product [u, r, R], contiguous, and what triangle_update has after a and b) -> triangle_update; without a backward"""
    masked_linear: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    """(x [r, n, c], its norm's scale, offset [c], mask [r, n], w [c, p], b [p]) -> mask * (norm(x) w + b), as [r, p, n]"""
    outer_product: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    """(a [r, o, n], b [R, p, n], w [o, p, z], w_b [z], scale [r, R]) -> scale * (sum over n, o, p of a b w, plus w_b), as [r, R, z]"""
    relu_mlp: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    """(x [..., c], the norm's scale, offset [c], up_w [c, u], up_b [u], down_w [u, c], down_b [c]) ->
    relu(norm(x) up_w + up_b) down_w + down_b"""
    swiglu: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    """(x [..., c], the norm's scale, offset [c], gate_w, up_w [c, u], down_w [u, c]) -> (swish(norm(x) gate_w) * (norm(x) up_w)) down_w"""
