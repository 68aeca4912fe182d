"""The backward of the transitions from the raw rows alone, a piece of the rows at a time (the ReLU's at up to 128 channels:
triton_narrow_transition.py).

The library makes the matrix products, with a piece's hidden layer in memory; what lies between them goes with the one product that
has a use for it: the hidden layer's gradient is masked (ReLU) or gated (SwiGLU), stored and summed where it is made (on NVIDIA Hopper by
hopper_transition_backward.py, where it fits).
Shapes: N rows, q of a piece, c channels, u hidden. In kernels: T rows and U of the hidden layer of a tile, K channels a step.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops import triton_layer_norm as norm
from foldfit.ops import triton_narrow_transition as narrow
from foldfit.ops.grids import cdiv
from foldfit.ops.triton_attention import dot, on_hopper, precision_of
from foldfit.ops.triton_transition import forward
from foldfit.ops.unread import is_unread

PIECE = 262144
"""Rows of a piece at most. Products that sum over rows want many of them: on an H100 pieces of 98304 took 8 to 16 % longer than all
147456 or 196608 at once, pieces of 65536 13 to 21 %."""


@triton.jit
def hidden_kernel(
    d_out, down_w, gate, up, hidden, sums, rows, c, u,
    T: tl.constexpr, U: tl.constexpr, K: tl.constexpr, GATED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """d = d_out down_w^T, [q, u]. ReLU: d where `hidden` is above zero, to `up`; its column sums to sums [tiles, u] in fp32.
    SwiGLU: `gate` and `up` before their product become their gradients in place, and `hidden` the product."""
    across = tl.cdiv(u, U)
    tile = tl.program_id(0) // across
    row = tl.cast(tile, tl.int64) * T + tl.arange(0, T)
    column = tl.program_id(0) % across * U + tl.arange(0, U)
    # [T, U]
    d = tl.zeros([T, U], tl.float32)
    for start in range(0, c, K):
        channel = start + tl.arange(0, K)
        at_rows = row[:, None] * c + channel[None, :]
        b_rows = tl.load(d_out + at_rows, mask=(row < rows)[:, None] & (channel < c)[None, :], other=0.0)
        at_w = column[:, None] * c + channel[None, :]
        b_w = tl.load(down_w + at_w, mask=(column < u)[:, None] & (channel < c)[None, :], other=0.0)
        d = dot(b_rows, tl.trans(b_w), d, PRECISION)
    at = row[:, None] * u + column[None, :]
    inside = (row < rows)[:, None] & (column < u)[None, :]
    if GATED:
        b_gate = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
        b_up = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
        sigmoid = tl.sigmoid(b_gate)
        swish = b_gate * sigmoid
        tl.store(hidden + at, (swish * b_up).to(hidden.dtype.element_ty), mask=inside)
        tl.store(up + at, (d * swish).to(up.dtype.element_ty), mask=inside)
        tl.store(gate + at, (d * b_up * (sigmoid + swish * (1 - sigmoid))).to(gate.dtype.element_ty), mask=inside)
    else:
        d = tl.where(tl.load(hidden + at, mask=inside, other=0.0) > 0, d, 0.0)
        tl.store(up + at, d.to(up.dtype.element_ty), mask=inside)
        tl.store(sums + tile * u + column, tl.sum(d, 0), mask=column < u)


def tiling(dtype: torch.dtype, gated: bool) -> dict[str, int]:
    """The best of seven measured on an H100."""
    if dtype == torch.float32 or gated:
        return {"T": 64, "U": 64, "K": 32 if dtype == torch.float32 else 64, "num_warps": 4, "num_stages": 3}
    return {"T": 128, "U": 128, "K": 64, "num_warps": 4, "num_stages": 3}


def differentiate_hidden(d_out: Tensor, down_w: Tensor, hidden: Tensor, grads: Sequence[Tensor]) -> Tensor | None:
    """hidden_kernel over a piece: ReLU with one of `grads`, whose sums it returns, SwiGLU with two: up, gate."""
    (u, c), rows, gated = down_w.shape, len(d_out), len(grads) > 1
    if not gated and on_hopper(d_out):
        from foldfit.ops import hopper_transition_backward as hopper

        if hopper.fits(d_out, hidden, down_w):
            return hopper.hidden_gradient(d_out, down_w, hidden, grads[0])
    tile = tiling(d_out.dtype, gated)
    tiles = cdiv(rows, tile["T"])
    sums = None if gated else torch.empty(tiles, u, dtype=torch.float32, device=d_out.device)
    hidden_kernel[(tiles * cdiv(u, tile["U"]),)](
        d_out, down_w, grads[-1], grads[0], hidden, sums, rows, c, u, GATED=gated, PRECISION=precision_of(d_out.dtype), **tile
    )
    return sums


def backward(
    d_out: Tensor, x: Tensor, scale: Tensor, offset: Tensor, down_w: Tensor, up_b: Tensor | None, ups: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """d_out, x [N, c] -> the gradients of x, scale, offset, down_w, up_b, down_b, *ups. ReLU with up_b and one of `ups`, up_w;
    SwiGLU without and two: up_w, gate_w."""
    (u, c), n = down_w.shape, len(x)
    rows = -(-n // -(-n // PIECE))  # pieces alike
    d_down_b = None if up_b is None else (x.new_ones(1, n) @ d_out)[0]
    d_x, y, hidden = torch.empty_like(x), x.new_empty(rows, c), x.new_empty(rows, u)
    grads = [x.new_empty(rows, u) for _ in ups]
    of_norm, d_up_b, d_down_w, *d_ups = (
        torch.zeros(shape, dtype=torch.float32, device=x.device) for shape in ((2, c), (u,), (u, c), *((c, u) for _ in ups))
    )
    for start in range(0, n, rows):
        part = slice(start, min(start + rows, n))
        b_y, b_hidden, *b_grads = (buffer[: part.stop - start] for buffer in (y, hidden, *grads))
        norm.normalise(x[part], scale, offset, b_y)
        if up_b is not None:
            torch._addmm_activation(up_b, b_y, ups[0], out=b_hidden)  # ReLU
        else:
            for w, made in zip(ups, b_grads, strict=True):
                torch.mm(b_y, w, out=made)
        sums = differentiate_hidden(d_out[part], down_w, b_hidden, b_grads)
        if sums is not None:
            d_up_b += sums.sum(0)
            del sums
        d_down_w += b_hidden.t() @ d_out[part]
        torch.mm(b_grads[0], ups[0].t(), out=d_x[part])
        for w, d in zip(ups[1:], b_grads[1:], strict=True):
            d_x[part].addmm_(d, w.t())
        for total, d in zip(d_ups, b_grads, strict=True):
            total += b_y.t() @ d
        of_norm += norm.differentiate(d_x[part], x[part], scale, d_x[part])
    d_scale, d_offset, d_up_b, d_down_w, *d_ups = (total.to(x.dtype) for total in (*of_norm, d_up_b, d_down_w, *d_ups))
    return d_x, d_scale, d_offset, d_down_w, None if up_b is None else d_up_b, d_down_b, *d_ups


class Transition(torch.autograd.Function):
    """Keeps its inputs alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, offset: Tensor, down_w: Tensor, up_b: Tensor | None, down_b: Tensor | None, *ups: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, scale, offset, down_w, up_b, *ups)
        if is_unread():
            return torch.empty_like(x, memory_format=torch.contiguous_format)
        return forward(x, scale, offset, down_w, up_b, down_b, *ups)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, offset, down_w, up_b, *ups = ctx.saved_tensors
        d_out, rows = (t.reshape(-1, t.shape[-1]).contiguous() for t in (d_out, x))
        given = d_out, rows, scale, offset, down_w
        grads: tuple[Tensor | None, ...]
        if up_b is not None and rows.shape[1] <= narrow.WIDEST:
            grads = narrow.backward(*given, up_b, *ups)
        else:
            grads = backward(*given, up_b, ups)
        d_x, *rest = grads
        return d_x.view_as(x), *rest  # type: ignore[union-attr]


def transition(
    x: Tensor, scale: Tensor, offset: Tensor, down_w: Tensor, up_b: Tensor | None, down_b: Tensor | None, *ups: Tensor
) -> Tensor:
    """x [..., c], its norm's scale and offset [c], down_w [u, c], `ups` [c, u] -> the update [..., c].

    ReLU with biases up_b [u], down_b [c] and up_w; SwiGLU without, and up_w, gate_w. Raises NotImplementedError
    for more than 256 channels, and where neither c nor u is a multiple of 16.
    """
    given = x, scale, offset, down_w, up_b, down_b, *ups
    return Transition.apply(*given) if torch.is_grad_enabled() else forward(*given)  # type: ignore[no-any-return, arg-type]
