"""Attention's last projection with its bias, dropout and the residual in one pass: AF2 Suppl. Alg. 7, line 7; Alg. 8, 13, 14 likewise.

Shapes: r rows, n tokens, N all of them, c channels, e = heads * head dim. In kernels: T tokens of a tile, C and E padded.
"""

import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.grids import cdiv
from foldfit.ops.onto import Residual
from foldfit.ops.triton_attention import dot, precision_of
from foldfit.ops.triton_folded_norm import PROGRAMS, padded
from foldfit.ops.triton_residual import placed, put

WIDEST = 128
"""Channels, and heads times head dim: a program keeps the weights on the chip. At 256 of each the library's product and `add` took 8 % less
than the best of four tiles."""
TOKENS, WARPS, STAGES = 64, 4, 2
"""Of a tile. The best of seven measured on an NVIDIA H200 (Triton 3.6, 2026-11-26): 0.88 ms for 4194304 tokens of 128 channels, where the
library's product and `add` took 1.68."""


@triton.jit
def output_kernel(
    o, w, b, tokens, n, c, e, target, source, factors, target_r, target_n, source_r, source_n, factors_r, factors_n,
    T: tl.constexpr, C: tl.constexpr, E: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """target [r, n, c], as `put` has it, of the update o [N, e] w + b. A program reads its weights once and goes from tile to tile."""
    width = tl.arange(0, E)
    channel = tl.arange(0, C)
    # [E, C]
    b_w = tl.load(w + width[:, None] * c + channel[None, :], mask=(width < e)[:, None] & (channel < c)[None, :], other=0.0)
    for tile in tl.range(tl.program_id(0), tl.cdiv(tokens, T), tl.num_programs(0), num_stages=STAGES):
        token = tile * T + tl.arange(0, T)
        at = token.to(tl.int64)[:, None] * e + width[None, :]
        b_o = tl.load(o + at, mask=(token < tokens)[:, None] & (width < e)[None, :], other=0.0)
        # [T, C]
        update = dot(b_o, b_w, None, PRECISION)
        if b is not None:
            update += tl.load(b + channel, mask=channel < c, other=0.0).to(tl.float32)[None, :]
        inside = (token < tokens)[:, None] & (channel < c)[None, :]
        put(
            update, (token // n).to(tl.int64), (token % n).to(tl.int64), channel, inside,
            target, source, factors, target_r, target_n, source_r, source_n, factors_r, factors_n,
        )  # fmt: skip


def fits(o: Tensor, c: int) -> bool:
    """In fp32 the library's product, and a pass of its own for the rest, is faster."""
    return o.element_size() == 2 and max(c, o.shape[2] * o.shape[3]) <= WIDEST


def output(o: Tensor, w: Tensor, b: Tensor | None, end: Residual) -> Tensor:
    """Adds the update of o [r, n, h, d], w [h, d, c], b [c] or None; returns the target."""
    (r, n, h, d), c, place = o.shape, w.shape[2], placed(*end.take())
    output_kernel[(min(2 * PROGRAMS, cdiv(r * n, TOKENS)),)](
        o, w, b, r * n, n, c, h * d, *place,
        T=TOKENS, C=padded(c), E=padded(h * d), PRECISION=precision_of(o.dtype), STAGES=STAGES, num_warps=WARPS,
    )  # fmt: skip
    return end.target
