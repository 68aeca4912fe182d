"""The backward of global column attention: from the raw rows and what each row's attention left, in two passes.

Per row, one program: the gradients that are sums over its elements, those of the gate's and output's weights first, then those of
`keys` and of the mean. Then, tile by tile, the gradient of every element, through the layer norm. Letters as in triton_global.py.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.grids import power_of_2
from foldfit.ops.triton_attention import dot, precision_of
from foldfit.ops.triton_gated_linear import padded
from foldfit.ops.triton_global import forward, gate_of, heads_of, logits_of, one_head, tiling
from foldfit.ops.triton_layer_norm import normalised
from foldfit.ops.triton_transition import norm_rows

SHARES = 4
"""Programs that share a row in the last pass: two or three for each of the 132 multiprocessors of an H200 from a hundred rows on."""


@triton.jit
def gradient_of_gated(d_out, output_w, token, n, c, e, C: tl.constexpr, E: tl.constexpr, PRECISION: tl.constexpr):
    """A tile of d_out [T, C], and of the gradient of gate * o [T, E]."""
    channel = tl.arange(0, C)
    width = tl.arange(0, E)
    at = token[:, None] * c + channel[None, :]
    b_d_out = tl.load(d_out + at, mask=(token < n)[:, None] & (channel < c)[None, :], other=0.0)
    b_w = tl.load(output_w + width[None, :] * c + channel[:, None], mask=(width < e)[None, :] & (channel < c)[:, None], other=0.0)
    return b_d_out, dot(b_d_out, b_w, None, PRECISION)


@triton.jit
def rows_kernel(
    d_out, x, scale, offset, query_w, key_w, value_w, gating_w, gating_b, output_w, mask, counts, keys, o, lse,
    d_o, d_values, d_keys, d_query, d_mean, of_gating, of_output, sums, n, c, h, d, mask_r, mask_n,
    T: tl.constexpr, C: tl.constexpr, H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program a row, all in fp32: d_o, d_query [r, e], d_values, d_keys [r, h, c], d_mean [r, c], of_gating [r, c, e],
    of_output [r, e, c]; sums [r, e + c], of the gradients of gating_b and output_b."""
    row = tl.program_id(0).to(tl.int64)
    e = h * d
    x += row * n * c
    d_out += row * n * c
    channel = tl.arange(0, C)
    width = tl.arange(0, E)
    head = tl.arange(0, H)
    dim = tl.arange(0, D)
    b_o = tl.load(o + row * e + width, mask=width < e, other=0.0)
    sum_gate = tl.zeros([T, E], tl.float32)  # over tiles first: a sum over a tile's elements goes from thread to thread
    sum_out = tl.zeros([T, C], tl.float32)
    gating = tl.zeros([C, E], tl.float32)
    output = tl.zeros([E, C], tl.float32)
    count = tl.load(counts + row)
    for start in range(0, n, T):
        token = start + tl.arange(0, T)
        b_y = norm_rows(x, scale, offset, token, n, c, C)
        gate = gate_of(b_y, gating_w, gating_b, c, e, C, E, PRECISION)
        b_d_out, d_gated = gradient_of_gated(d_out, output_w, token, n, c, e, C, E, PRECISION)
        sum_out += b_d_out.to(tl.float32)
        output = dot(tl.trans(gate.to(b_y.dtype)), b_d_out, output, PRECISION)
        d_gate = d_gated * gate * (1 - gate) * b_o[None, :]
        sum_gate += d_gate
        gating = dot(tl.trans(b_y), d_gate.to(b_y.dtype), gating, PRECISION)
    both = (channel < c)[:, None] & (width < e)[None, :]
    tl.store(of_gating + row * c * e + channel[:, None] * e + width[None, :], gating, mask=both)
    both = (width < e)[:, None] & (channel < c)[None, :]
    at_w = width[:, None] * c + channel[None, :]
    tl.store(of_output + row * c * e + at_w, output * b_o[:, None], mask=both)
    tl.store(sums + row * (e + c) + width, tl.sum(sum_gate, 0), mask=width < e)
    tl.store(sums + row * (e + c) + e + channel, tl.sum(sum_out, 0), mask=channel < c)
    # sum over elements of gate * (d_out output_w^T)
    by_width = tl.sum(output * tl.load(output_w + at_w, mask=both, other=0.0).to(tl.float32), 1)
    tl.store(d_o + row * e + width, by_width, mask=width < e)
    tl.debug_barrier()  # d_o is read again, by heads
    # [H, D], [H, C]
    at_head = (row * h + head)[:, None] * d + dim[None, :]
    heads = (head < h)[:, None] & (dim < d)[None, :]
    by_head = tl.load(d_o + at_head, mask=heads, other=0.0)
    delta = tl.sum(by_head * tl.load(o + at_head, mask=heads, other=0.0), 1)
    b_d_values = tl.sum(by_head[:, None, :] * one_head(value_w, c, d, C, D)[None, :, :], 2)
    at = (row * h + head)[:, None] * c + channel[None, :]
    inside = (head < h)[:, None] & (channel < c)[None, :]
    tl.store(d_values + at, b_d_values, mask=inside)
    b_keys = tl.load(keys + at, mask=inside, other=0.0).to(x.dtype.element_ty)
    b_d_values = b_d_values.to(x.dtype.element_ty)
    b_lse = tl.load(lse + row * h + head, mask=head < h, other=float("inf"))
    b_d_keys = tl.zeros([H, C], tl.float32)
    for start in range(0, n, T):
        token = start + tl.arange(0, T)
        real = tl.load(mask + row * mask_r + token.to(tl.int64) * mask_n, mask=token < n, other=0.0).to(tl.float32)
        b_y = norm_rows(x, scale, offset, token, n, c, C)
        # [H, T]
        weights = tl.exp(logits_of(b_y, b_keys, real, count, token, n, PRECISION) - b_lse[:, None])
        d_logits = weights * (dot(b_d_values, tl.trans(b_y), None, PRECISION) - delta[:, None])
        b_d_keys = dot(d_logits.to(b_y.dtype), b_y, b_d_keys, PRECISION)
    tl.store(d_keys + at, b_d_keys, mask=inside)
    b_d_query = tl.sum(b_d_keys[:, :, None] * one_head(key_w, c, d, C, D)[None, :, :], 1) / tl.sqrt(tl.cast(d, tl.float32))
    tl.store(d_query + at_head, b_d_query, mask=heads)
    of_mean = tl.sum(tl.sum(heads_of(query_w, c, h, d, C, H, D) * b_d_query[None, :, :], 2), 1)
    tl.store(d_mean + row * c + channel, of_mean / (count + 1e-10), mask=channel < c)


@triton.jit
def elements_kernel(
    d_out, x, scale, offset, gating_w, gating_b, output_w, mask, counts, keys, o, lse, d_o, d_values, d_mean, d_x, sums, n, c, h, d,
    mask_r, mask_n, T: tl.constexpr, C: tl.constexpr, H: tl.constexpr, D: tl.constexpr, E: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """SHARES programs a row. d_x [r, n, c]; sums [r, SHARES, 2, c] in fp32, of the gradients of scale and offset."""
    row = tl.program_id(0).to(tl.int64)
    e = h * d
    x += row * n * c
    d_out += row * n * c
    d_x += row * n * c
    channel = tl.arange(0, C)
    width = tl.arange(0, E)
    head = tl.arange(0, H)
    dim = tl.arange(0, D)
    real_c = channel < c
    b_o = tl.load(o + row * e + width, mask=width < e, other=0.0)
    b_d_mean = tl.load(d_mean + row * c + channel, mask=real_c, other=0.0)
    b_scale = tl.load(scale + channel, mask=real_c, other=0.0).to(tl.float32)
    b_w = tl.load(gating_w + channel[None, :] * e + width[:, None], mask=real_c[None, :] & (width < e)[:, None], other=0.0)
    # [H, D], [H, C]
    at_head = (row * h + head)[:, None] * d + dim[None, :]
    heads = (head < h)[:, None] & (dim < d)[None, :]
    delta = tl.sum(tl.load(d_o + at_head, mask=heads, other=0.0) * tl.load(o + at_head, mask=heads, other=0.0), 1)
    at = (row * h + head)[:, None] * c + channel[None, :]
    b_keys = tl.load(keys + at, mask=(head < h)[:, None] & real_c[None, :], other=0.0).to(x.dtype.element_ty)
    b_d_values = tl.load(d_values + at, mask=(head < h)[:, None] & real_c[None, :], other=0.0).to(x.dtype.element_ty)
    b_lse = tl.load(lse + row * h + head, mask=head < h, other=float("inf"))
    count = tl.load(counts + row)
    of_scale = tl.zeros([T, C], tl.float32)  # over tiles first, as above
    of_offset = tl.zeros([T, C], tl.float32)
    for start in range(tl.program_id(1) * T, n, tl.num_programs(1) * T):
        token = start + tl.arange(0, T)
        real = tl.load(mask + row * mask_r + token.to(tl.int64) * mask_n, mask=token < n, other=0.0).to(tl.float32)
        b_y = norm_rows(x, scale, offset, token, n, c, C)
        # [T, E]
        gate = gate_of(b_y, gating_w, gating_b, c, e, C, E, PRECISION)
        _, d_gate = gradient_of_gated(d_out, output_w, token, n, c, e, C, E, PRECISION)
        d_gate *= gate * (1 - gate) * b_o[None, :]
        # [T, C]
        d_y = dot(d_gate.to(b_y.dtype), b_w, None, PRECISION) + real[:, None] * b_d_mean[None, :]
        # [H, T]
        weights = tl.exp(logits_of(b_y, b_keys, real, count, token, n, PRECISION) - b_lse[:, None])
        d_logits = weights * (dot(b_d_values, tl.trans(b_y), None, PRECISION) - delta[:, None])
        d_y = dot(tl.trans(weights.to(b_y.dtype)), b_d_values, d_y, PRECISION)
        d_y = dot(tl.trans(d_logits.to(b_y.dtype)), b_keys, d_y, PRECISION)
        inside = (token < n)[:, None] & real_c[None, :]
        at_x = token[:, None] * c + channel[None, :]
        hat, inverse = normalised(tl.load(x + at_x, mask=inside, other=0.0).to(tl.float32), c, C)
        of_scale += d_y * hat
        of_offset += tl.where(inside, d_y, 0.0)
        d_y *= b_scale[None, :]
        d_y = inverse[:, None] * (d_y - (tl.sum(d_y, 1) / c)[:, None] - hat * (tl.sum(d_y * hat, 1) / c)[:, None])
        tl.store(d_x + at_x, d_y.to(d_x.dtype.element_ty), mask=inside)
    at_sums = sums + (row * tl.num_programs(1) + tl.program_id(1)) * 2 * c + channel
    tl.store(at_sums, tl.sum(of_scale, 0), mask=real_c)
    tl.store(at_sums + c, tl.sum(of_offset, 0), mask=real_c)


class GlobalAttention(torch.autograd.Function):
    """Keeps its inputs and, of every row, the mean, the keys, the values and what the soft-max leaves: nothing as long as the row."""

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> Tensor:
        out, *rest = forward(*given)
        ctx.save_for_backward(*given[:9], given[10], *rest)
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, offset, query_w, key_w, value_w, gating_w, gating_b, output_w, mask, means, counts, keys, values, o, lse = (
            ctx.saved_tensors
        )
        (r, n, c), (_, h, d) = x.shape, query_w.shape
        e, d_out, x = h * d, d_out.contiguous(), x.contiguous()
        empty = means.new_empty
        d_o, d_query, d_values, d_keys, d_mean = empty(r, e), empty(r, e), empty(r, h, c), empty(r, h, c), empty(r, c)
        of_gating, of_output, sums = empty(r, c, e), empty(r, e, c), empty(r, e + c)
        widths = {
            "C": padded(c), "H": padded(h), "D": power_of_2(d), "E": padded(e),
            "PRECISION": precision_of(x.dtype),
        }  # fmt: skip
        rows_kernel[(r,)](
            d_out, x, scale, offset, query_w, key_w, value_w, gating_w, gating_b, output_w, mask, counts, keys, o, lse,
            d_o, d_values, d_keys, d_query, d_mean, of_gating, of_output, sums, n, c, h, d, *mask.stride(),
            **widths, **tiling("rows", x.dtype),
        )  # fmt: skip
        query = (means @ query_w.float().flatten(1)).view(-1, d) * d**-0.5
        d_gating_b, d_output_b = sums.sum(0).to(x.dtype).split([e, c])
        grads = [
            (means.t() @ d_query).to(x.dtype).view_as(query_w),
            (d_keys.view(-1, c).t() @ query).to(x.dtype),
            (values.view(-1, c).t() @ d_o.view(-1, d)).to(x.dtype),
            of_gating.sum(0).to(x.dtype).view_as(gating_w),
            d_gating_b.view_as(gating_b),
            of_output.sum(0).to(x.dtype).view_as(output_w),
            d_output_b,
        ]
        del of_gating, of_output, sums, d_query, d_keys, query
        d_x, sums = torch.empty_like(x), empty(r, SHARES, 2, c)
        elements_kernel[(r, SHARES)](
            d_out, x, scale, offset, gating_w, gating_b, output_w, mask, counts, keys, o, lse, d_o, d_values, d_mean, d_x, sums, n, c, h, d,
            *mask.stride(), **widths, **tiling("elements", x.dtype),
        )  # fmt: skip
        return d_x, *sums.sum((0, 1)).to(x.dtype), *grads, None


def global_attention(*given: Tensor) -> Tensor:
    return GlobalAttention.apply(*given) if torch.is_grad_enabled() else forward(*given)[0]  # type: ignore[no-any-return]
