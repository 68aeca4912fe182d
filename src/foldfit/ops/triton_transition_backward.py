"""The backward of the transitions from the raw rows alone: what forward computed is computed again, a piece of the rows at a time.

One pass makes the gradient of the rows, layer norm included, and leaves behind what the weights' gradients are products of: the
normalised rows, the hidden layer and its gradients, of a piece of the rows alone.
Shapes: N rows, q of a piece, c channels, u hidden. In kernels: T rows of a tile, C channels padded, U of the hidden layer a block.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.triton_attention import dot, precision_of
from foldfit.ops.triton_gated_linear import padded
from foldfit.ops.triton_layer_norm import normalised
from foldfit.ops.triton_transition import down_block, forward, norm_rows, up_block

PIECE = 33792
"""Rows of a piece: two tiles of 128 for each of the 132 multiprocessors of an H200."""


@triton.jit
def rows_kernel(
    d_out, x, scale, offset, gate_w, up_w, up_b, down_w, d_x, y, hiddens, sums, of_up_b, tokens, c, u,
    T: tl.constexpr, C: tl.constexpr, U: tl.constexpr, GATED: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """d_x [q, c]; y [q, c], normalised; hiddens [2 or 3, q, u]: the hidden layer, the gradients of what `up` and `gate` make.
    sums [tiles, 3, c] in fp32: of the gradients of scale, offset and down_b; of_up_b [tiles, u]."""
    tile = tl.program_id(0)
    token = tl.cast(tile, tl.int64) * T + tl.arange(0, T)
    channel = tl.arange(0, C)
    real = channel < c
    inside = (token < tokens)[:, None] & real[None, :]
    # [T, C]
    at = token[:, None] * c + channel[None, :]
    b_y = norm_rows(x, scale, offset, token, tokens, c, C)
    tl.store(y + at, b_y, mask=inside)
    b_d_out = tl.load(d_out + at, mask=inside, other=0.0)
    d_y = tl.zeros([T, C], tl.float32)
    size = tl.cast(tokens, tl.int64) * u
    for start in tl.range(0, u, U, num_stages=STAGES):
        hidden = start + tl.arange(0, U)
        b_up = up_block(up_w, hidden, c, u, C)
        b_down = down_block(down_w, hidden, c, u, C)
        # [T, U]
        up = dot(b_y, b_up, None, PRECISION)
        d = dot(b_d_out, tl.trans(b_down), None, PRECISION)
        at_hidden = hiddens + token[:, None] * u + hidden[None, :]
        known = (token < tokens)[:, None] & (hidden < u)[None, :]
        if GATED:
            b_gate = up_block(gate_w, hidden, c, u, C)
            gate = dot(b_y, b_gate, None, PRECISION)
            sigmoid = tl.sigmoid(gate)
            tl.store(at_hidden, (gate * sigmoid * up).to(b_y.dtype), mask=known)
            d_gate = (d * up * sigmoid * (1 + gate * (1 - sigmoid))).to(b_y.dtype)
            d_up = (d * gate * sigmoid).to(b_y.dtype)
            tl.store(at_hidden + 2 * size, d_gate, mask=known)
            d_y = dot(d_gate, tl.trans(b_gate), d_y, PRECISION)
        else:
            up += tl.load(up_b + hidden, mask=hidden < u, other=0.0).to(tl.float32)[None, :]
            tl.store(at_hidden, tl.maximum(up, 0.0).to(b_y.dtype), mask=known)
            d = tl.where((up > 0) & (token < tokens)[:, None], d, 0.0)
            tl.store(of_up_b + tile * u + hidden, tl.sum(d, 0), mask=hidden < u)
            d_up = d.to(b_y.dtype)
        tl.store(at_hidden + size, d_up, mask=known)
        d_y = dot(d_up, tl.trans(b_up), d_y, PRECISION)
    hat, inverse = normalised(tl.load(x + at, mask=inside, other=0.0).to(tl.float32), c, C)
    at_sums = sums + tile * 3 * c + channel
    tl.store(at_sums, tl.sum(d_y * hat, 0), mask=real)
    tl.store(at_sums + c, tl.sum(d_y, 0), mask=real)
    if not GATED:
        tl.store(at_sums + 2 * c, tl.sum(tl.load(d_out + at, mask=inside, other=0.0).to(tl.float32), 0), mask=real)
    d_y *= tl.load(scale + channel, mask=real, other=0.0).to(tl.float32)[None, :]
    d_y = inverse[:, None] * (d_y - (tl.sum(d_y, 1) / c)[:, None] - hat * (tl.sum(d_y * hat, 1) / c)[:, None])
    tl.store(d_x + at, d_y.to(d_x.dtype.element_ty), mask=inside)


def tiling(c: int, u: int, dtype: torch.dtype, gated: bool) -> dict[str, int]:
    width = padded(c)
    if dtype == torch.float32:
        return {"T": 32 if width <= 128 else 16, "C": width, "U": 16, "STAGES": 2, "num_warps": 4}
    return {"T": 128 if width <= 128 else 64, "C": width, "U": 64 if width <= 256 and not gated else 32, "STAGES": 2, "num_warps": 8}


def backward(
    d_out: Tensor, x: Tensor, scale: Tensor, offset: Tensor, gate_w: Tensor | None, up_w: Tensor, up_b: Tensor | None, down_w: Tensor,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """d_out, x [..., c] -> the gradients of x, scale, offset, gate_w, up_w, up_b, down_w, down_b."""
    (c, u), gated = up_w.shape, gate_w is not None
    d_out, x = d_out.reshape(-1, c), x.reshape(-1, c)
    tile, precision = tiling(c, u, x.dtype, gated), precision_of(x.dtype)
    piece = min(len(x), PIECE)
    d_x, y, hiddens = torch.empty_like(x), x.new_empty(piece, c), x.new_empty(2 + gated, piece, u)
    weights = torch.zeros(2 + gated, c, u, dtype=torch.float32, device=x.device)
    of_c, of_up_b = weights.new_zeros(3, c), weights.new_zeros(0 if gated else u)
    for start in range(0, len(x), piece):
        part = slice(start, min(start + piece, len(x)))
        rows = len(x[part])
        tiles = triton.cdiv(rows, tile["T"])
        h = hiddens.view(-1)[: (2 + gated) * rows * u].view(2 + gated, rows, u)
        sums, up_sums = weights.new_empty(tiles, 3, c), weights.new_empty(tiles, len(of_up_b))
        rows_kernel[(tiles,)](
            d_out[part], x[part], scale, offset, gate_w, up_w, up_b, down_w, d_x[part], y, h, sums, up_sums, rows, c, u,
            GATED=gated, PRECISION=precision, **tile,
        )  # fmt: skip
        of_c += sums.sum(0)
        of_up_b += up_sums.sum(0)
        weights[0] += d_out[part].t() @ h[0]
        for i in range(1, 2 + gated):
            weights[i] += y[:rows].t() @ h[i]
    w = weights.to(x.dtype)
    d_scale, d_offset, d_down_b = of_c.to(x.dtype)
    return d_x, d_scale, d_offset, w[2] if gated else None, w[1], None if gated else of_up_b.to(x.dtype), w[0].t(), None if gated else d_down_b


class Transition(torch.autograd.Function):
    """Keeps its inputs alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, *given[:-1])
        return forward(x, *given)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        d_x, *rest = backward(d_out, *ctx.saved_tensors)
        return d_x.view_as(d_out), *rest  # type: ignore[union-attr]


def transition(
    x: Tensor, scale: Tensor, offset: Tensor, gate_w: Tensor | None, up_w: Tensor, up_b: Tensor | None, down_w: Tensor, down_b: Tensor | None
) -> Tensor:
    given = x, scale, offset, gate_w, up_w, up_b, down_w, down_b
    return Transition.apply(*given) if torch.is_grad_enabled() else forward(*given)  # type: ignore[no-any-return]
