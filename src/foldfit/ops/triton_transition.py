"""Transitions without their hidden layer in memory: layer norm, both layers and what lies between them in one pass over the rows.

ReLU: AF2 Suppl. Alg. 9, 15; SwiGLU: AF3 Suppl. Alg. 11. A program holds its rows, normalised, and their update; the hidden layer
goes by block after block. The backward (triton_transition_backward.py) keeps the raw rows alone. hopper_transition.py does the same on
NVIDIA Hopper, where it fits.
Shapes: N rows, c channels, u hidden. In kernels: T rows of a tile, C channels padded for a product, U of the hidden layer a block.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.grids import cdiv
from foldfit.ops.onto import residual
from foldfit.ops.triton_attention import dot, on_hopper, precision_of
from foldfit.ops.triton_gated_linear import padded
from foldfit.ops.triton_layer_norm import normalised

WIDEST = 256
"""Channels that a program holds at once."""


@triton.jit
def norm_rows(x, scale, offset, token, tokens, c, C: tl.constexpr):
    """Rows of x [T, C], normalised over their c channels, in storage precision."""
    channel = tl.arange(0, C)
    real = channel < c
    # [T, C]
    b_x = tl.load(x + token[:, None] * c + channel[None, :], mask=(token < tokens)[:, None] & real[None, :], other=0.0)
    hat, _ = normalised(b_x.to(tl.float32), c, C)
    hat = hat * tl.load(scale + channel, mask=real, other=0.0).to(tl.float32)[None, :]
    hat += tl.load(offset + channel, mask=real, other=0.0).to(tl.float32)[None, :]
    return hat.to(b_x.dtype)


@triton.jit
def up_block(w, hidden, c, u, C: tl.constexpr):
    """Columns `hidden` [U] of w [c, u]: [C, U]."""
    channel = tl.arange(0, C)
    return tl.load(w + channel[:, None] * u + hidden[None, :], mask=(channel < c)[:, None] & (hidden < u)[None, :], other=0.0)


@triton.jit
def down_block(w, hidden, c, u, C: tl.constexpr):
    """Rows `hidden` [U] of w [u, c]: [U, C]."""
    channel = tl.arange(0, C)
    return tl.load(w + hidden[:, None] * c + channel[None, :], mask=(hidden < u)[:, None] & (channel < c)[None, :], other=0.0)


@triton.jit
def transition_kernel(
    x, scale, offset, gate_w, up_w, up_b, down_w, down_b, out, source, tokens, c, u,
    T: tl.constexpr, C: tl.constexpr, U: tl.constexpr, GATED: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """out [N, c], the update with `source` or alone. GATED: SwiGLU, which has no biases; otherwise ReLU, which has no gate_w."""
    token = tl.program_id(0).to(tl.int64) * T + tl.arange(0, T)
    channel = tl.arange(0, C)
    inside = (token < tokens)[:, None] & (channel < c)[None, :]
    at = token[:, None] * c + channel[None, :]
    y = norm_rows(x, scale, offset, token, tokens, c, C)
    if source is None:
        update = tl.zeros([T, C], tl.float32)
    else:  # perhaps x itself, and out: of these rows, which no other program touches
        update = tl.load(source + at, mask=inside, other=0.0).to(tl.float32)
    for start in tl.range(0, u, U, num_stages=STAGES):
        hidden = start + tl.arange(0, U)
        # [T, U]
        h = dot(y, up_block(up_w, hidden, c, u, C), None, PRECISION)
        if GATED:
            gate = dot(y, up_block(gate_w, hidden, c, u, C), None, PRECISION)
            h *= gate * tl.sigmoid(gate)
        else:
            h = tl.maximum(h + tl.load(up_b + hidden, mask=hidden < u, other=0.0).to(tl.float32)[None, :], 0.0)
        update = dot(h.to(y.dtype), down_block(down_w, hidden, c, u, C), update, PRECISION)
    if not GATED:
        update += tl.load(down_b + channel, mask=channel < c, other=0.0).to(tl.float32)[None, :]
    tl.store(out + at, update.to(out.dtype.element_ty), mask=inside)


def tiling(c: int, dtype: torch.dtype, gated: bool) -> dict[str, int]:
    """What leaves the update in registers, and two or three blocks of each weight in shared memory; measured on an H100."""
    width = padded(c)
    if dtype == torch.float32:
        t, u, stages, warps = (64 if width <= 128 else 32, 32 if not gated else 16, 2, 8)
    elif width == 256:
        t, u, stages, warps = (128, 32 if gated else 64, 2, 8)
    else:
        t, u, stages, warps = (64, 64, 2 if gated else 3, 4)
    return {"T": t, "C": width, "U": u, "STAGES": stages, "num_warps": warps}


def check(c: int, u: int) -> None:
    """Widths of which neither is a multiple of 16 give wrong numbers in 16 bits (24 and 40 did, by Triton 3.6 on an H200)."""
    if c > WIDEST:
        raise NotImplementedError(f"transitions of at most {WIDEST} channels. Got {c}.")
    if c % 16 and u % 16:
        raise NotImplementedError(f"transitions whose channels or hidden layer are a multiple of 16. Got {c} and {u}.")


def forward(
    x: Tensor, scale: Tensor, offset: Tensor, down_w: Tensor, up_b: Tensor | None, down_b: Tensor | None, up_w: Tensor,
    gate_w: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The update of rows x [..., c]: ReLU with biases, SwiGLU with gate_w. Added where it ends up, if that lies as it does."""
    c, u = up_w.shape
    check(c, u)
    x, end = x.contiguous(), residual(x.shape)
    out, source, _ = end.take() if end and end.flat else (torch.empty_like(x), None, None)
    if on_hopper(x):
        from foldfit.ops import hopper_transition

        if hopper_transition.fits(x, up_w, down_w, *(() if gate_w is None else (gate_w,))):
            hopper_transition.forward(x, scale, offset, down_w, up_b, down_b, up_w, gate_w, out, source)
            return out
    tokens, tile = x.numel() // c, tiling(c, x.dtype, gate_w is not None)
    transition_kernel[(cdiv(tokens, tile["T"]),)](
        x, scale, offset, gate_w, up_w, up_b, down_w, down_b, out, source, tokens, c, u,
        GATED=gate_w is not None, PRECISION=precision_of(x.dtype), **tile,
    )  # fmt: skip
    return out
