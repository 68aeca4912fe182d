"""The backward of the transitions from the raw rows alone. The ReLU's: triton_narrow_transition.py, triton_wide_transition.py.

SwiGLU's goes by pieces of the rows. The library makes the matrix products, with a piece's hidden layer in memory; what lies between
them goes with the one product that has a use for it: the hidden layer's gradient is gated and stored where it is made.
Shapes: N rows, q of a piece, c channels, u hidden. In kernels: T rows and U of the hidden layer of a tile, K channels a step.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops import triton_layer_norm as norm
from foldfit.ops import triton_narrow_transition as narrow
from foldfit.ops import triton_wide_transition as wide
from foldfit.ops.triton_attention import dot, precision_of
from foldfit.ops.triton_transition import forward
from foldfit.ops.unread import is_unread

PIECE = 262144
"""Rows of a piece at most. Products that sum over rows want many of them: on an H100 pieces of 98304 took 8 to 16 % longer than all
147456 or 196608 at once, pieces of 65536 13 to 21 %."""


@triton.jit
def gated_kernel(d_out, down_w, gate, up, hidden, rows, c, u, T: tl.constexpr, U: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr):
    """d = d_out down_w^T, [q, u]: `gate` and `up` before their product become their gradients in place, and `hidden` the product."""
    across = tl.cdiv(u, U)
    row = tl.cast(tl.program_id(0) // across, tl.int64) * T + tl.arange(0, T)
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
    b_gate = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    b_up = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(b_gate)
    swish = b_gate * sigmoid
    tl.store(hidden + at, (swish * b_up).to(hidden.dtype.element_ty), mask=inside)
    tl.store(up + at, (d * swish).to(up.dtype.element_ty), mask=inside)
    tl.store(gate + at, (d * b_up * (sigmoid + swish * (1 - sigmoid))).to(gate.dtype.element_ty), mask=inside)


def backward(d_out: Tensor, x: Tensor, scale: Tensor, offset: Tensor, down_w: Tensor, up_w: Tensor, gate_w: Tensor) -> tuple[Tensor, ...]:
    """SwiGLU: d_out, x [N, c] -> the gradients of x, scale, offset, down_w, up_w, gate_w."""
    (u, c), n = down_w.shape, len(x)
    rows = -(-n // -(-n // PIECE))  # pieces alike
    d_x, y, hidden, gate, up = torch.empty_like(x), x.new_empty(rows, c), *(x.new_empty(rows, u) for _ in range(3))
    of_norm, d_down_w, d_up_w, d_gate_w = (
        torch.zeros(shape, dtype=torch.float32, device=x.device) for shape in ((2, c), (u, c), (c, u), (c, u))
    )
    for start in range(0, n, rows):
        part = slice(start, min(start + rows, n))
        size = part.stop - start
        b_y, b_hidden, b_gate, b_up = (buffer[:size] for buffer in (y, hidden, gate, up))
        norm.normalise(x[part], scale, offset, b_y)
        torch.mm(b_y, gate_w, out=b_gate)
        torch.mm(b_y, up_w, out=b_up)
        gated_kernel[(triton.cdiv(size, 64) * triton.cdiv(u, 64),)](
            d_out[part], down_w, b_gate, b_up, b_hidden, size, c, u, T=64, U=64, K=32 if x.dtype == torch.float32 else 64,
            PRECISION=precision_of(x.dtype), num_warps=4, num_stages=3,
        )  # fmt: skip
        d_down_w += b_hidden.t() @ d_out[part]
        torch.mm(b_up, up_w.t(), out=d_x[part])
        d_x[part].addmm_(b_gate, gate_w.t())
        d_up_w += b_y.t() @ b_up
        d_gate_w += b_y.t() @ b_gate
        of_norm += norm.differentiate(d_x[part], x[part], scale, d_x[part])
    return d_x, *(total.to(x.dtype) for total in (*of_norm, d_down_w, d_up_w, d_gate_w))


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
        if up_b is None:
            d_x, d_scale, d_offset, d_down_w, *d_ups = backward(d_out, rows, scale, offset, down_w, *ups)
            return d_x.view_as(x), d_scale, d_offset, d_down_w, None, None, *d_ups
        relu = narrow if rows.shape[1] <= narrow.WIDEST else wide
        d_x, *rest = relu.backward(d_out, rows, scale, offset, down_w, up_b, *ups)
        return d_x.view_as(x), *rest


def transition(
    x: Tensor, scale: Tensor, offset: Tensor, down_w: Tensor, up_b: Tensor | None, down_b: Tensor | None, *ups: Tensor
) -> Tensor:
    """x [..., c], its norm's scale and offset [c], down_w [u, c], `ups` [c, u] -> the update [..., c].

    ReLU with biases up_b [u], down_b [c] and up_w; SwiGLU without, and up_w, gate_w. Raises NotImplementedError for more than 256 channels.
    """
    given = x, scale, offset, down_w, up_b, down_b, *ups
    return Transition.apply(*given) if torch.is_grad_enabled() else forward(*given)  # type: ignore[no-any-return, arg-type]
