"""Layer norm folded into the two projections that follow it, for kernels that hold all channels of a token.

norm(x) w + b = hat (scale w) + (b + offset w), hat being x less its mean over its deviation: rows are read as they are, and
normalised on chip. With D the gradient of a projection, M = hat^T D and S the sum of D over tokens, what the parameters need is small:
d_w = scale M + offset S, d_scale = sum of w M, d_offset = w S, d_b = S. Kernels leave M and S in parts, a part a program, and
`reduce_kernel` sums them: no atomics, the same bits every time.
A projection and its gate go together, each behind a norm of its own or both behind one. Shapes: N tokens, p and gate_p channels in, q out.
In kernels: T tokens of a tile, P and Q the widths padded for a product.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.grids import cdiv, power_of_2
from foldfit.ops.triton_attention import INTERPRETED, dot
from foldfit.ops.triton_layer_norm import EPSILON, starts

WIDEST = 256
"""Channels that a program holds at once."""
FOLDED = 32
"""Columns that a program folds, and parts that are summed at a time."""
PROGRAMS, TOKENS_EACH = 132, 512
"""Of a kernel that leaves parts, at most: one for each multiprocessor of an H200; and tokens of one, at least, so that its parts are
not more than what it reads."""


def padded(width: int) -> int:
    return max(16, power_of_2(width))


@dataclass(frozen=True)
class Tile:
    """Tokens of a tile, columns of the projections at a time, and how a program runs."""

    tokens: int
    columns: int
    warps: int
    stages: int = 1
    programs: int = PROGRAMS
    registers: int | None = None
    """At most so many a thread, that more programs fit a multiprocessor; None: as many as it takes."""

    def grid(self, tokens: int) -> tuple[int]:
        return (min(self.programs, max(1, cdiv(tokens, self.tokens))),)

    @property
    def options(self) -> dict[str, Any]:
        return {"T": self.tokens, "B": self.columns, "STAGES": self.stages, "num_warps": self.warps, "maxnreg": self.registers}


def tile_of(p: int, q: int, dtype: torch.dtype, best: Tile) -> Tile:
    """Forward, from at most p channels to q: `best` for 16 bits and up to 128 channels, a guess that runs for others."""
    if dtype == torch.float32:
        return Tile(16, min(padded(q), 64), 4, programs=4 * PROGRAMS)
    return replace(best, columns=padded(q)) if max(p, q) <= 128 else Tile(32, 64, 8)


def backward_tile_of(p: int, q: int, dtype: torch.dtype, best: Tile) -> Tile:
    """The same of a backward."""
    if dtype == torch.float32:
        return Tile(16, min(padded(q), 32), 4)
    return replace(best, columns=padded(q)) if max(p, q) <= 128 else Tile(32, 64, 8)


@triton.jit
def fold_projection(w, b, scale, offset, f, bias, p, q, P: tl.constexpr, B: tl.constexpr, HAS_B: tl.constexpr):
    row = tl.arange(0, P)
    column = tl.program_id(1) * B + tl.arange(0, B)
    at = row[:, None] * q + column[None, :]
    inside = (row < p)[:, None] & (column < q)[None, :]
    b_w = tl.load(w + at, mask=inside, other=0.0).to(tl.float32)
    b_scale = tl.load(scale + row, mask=row < p, other=0.0).to(tl.float32)
    tl.store(f + at, (b_scale[:, None] * b_w).to(f.dtype.element_ty), mask=inside)
    total = tl.sum(tl.load(offset + row, mask=row < p, other=0.0).to(tl.float32)[:, None] * b_w, 0)
    if HAS_B:
        total += tl.load(b + column, mask=column < q, other=0.0).to(tl.float32)
    tl.store(bias + column, total, mask=column < q)


@triton.jit
def fold_kernel(
    w, b, scale, offset, gate_w, gate_b, gate_scale, gate_offset, f, bias, p, gate_p, q,
    P: tl.constexpr, B: tl.constexpr, HAS_B: tl.constexpr,
):  # fmt: skip
    """f [p + gate_p, q] = scale w; bias [2, q] = b + offset w in fp32."""
    if tl.program_id(0) == 0:
        fold_projection(w, b, scale, offset, f, bias, p, q, P, B, HAS_B)
    else:
        fold_projection(gate_w, gate_b, gate_scale, gate_offset, f + p * q, bias + q, gate_p, q, P, B, HAS_B)


@triton.jit
def square(f, first, p: tl.constexpr, q: tl.constexpr, P: tl.constexpr, B: tl.constexpr):
    """Columns from `first` on of one projection's folded weights, [P, B]."""
    row = tl.arange(0, P)
    column = first + tl.arange(0, B)
    return tl.load(f + row[:, None] * q + column[None, :], mask=(row < p)[:, None] & (column < q)[None, :], other=0.0)


@triton.jit
def project(hat, f, bias, first, q: tl.constexpr, B: tl.constexpr, PRECISION: tl.constexpr):
    """hat [T, P], f [P, B] -> [T, B] in fp32. The bias is read when it is needed: it would take registers all along."""
    column = first + tl.arange(0, B)
    return dot(hat, f, None, PRECISION) + tl.load(bias + column, mask=column < q, other=0.0)[None, :]


@triton.jit
def sigmoid(x, dtype: tl.constexpr):
    """Through the hardware's tanh where storage has fewer digits than it: a fifth of the instructions."""
    if dtype == tl.float32 or INTERPRETED:
        return tl.sigmoid(x)
    else:
        half = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x * 0.5], dtype=tl.float32, is_pure=True, pack=1)
        return half * 0.5 + 0.5


@triton.jit
def normalised(x, c: tl.constexpr, C: tl.constexpr):
    """x [T, C] in fp32, c channels of it real -> (x - mean) / deviation and 1 / deviation [T]."""
    x -= (tl.sum(x, 1) * (1.0 / c))[:, None]
    if c != C:
        x = tl.where((tl.arange(0, C) < c)[None, :], x, 0.0)
    inverse = tl.rsqrt(tl.sum(x * x, 1) * (1.0 / c) + EPSILON)
    return x * inverse[:, None], inverse


@triton.jit
def hats(x, token, tokens, n, x_r, x_n, c: tl.constexpr, C: tl.constexpr):
    """Tokens of x [r, n, c] -> hat [T, C] in fp32, 1 / deviation [T]."""
    channel = tl.arange(0, C)
    at = starts(token, n, x_r, x_n)[:, None] + channel[None, :]
    return normalised(tl.load(x + at, mask=(token < tokens)[:, None] & (channel < c)[None, :], other=0.0).to(tl.float32), c, C)


@triton.jit
def norm_gradient(d, hat, inverse, c: tl.constexpr):
    """From the gradient of hat [T, C] to that of what was normalised."""
    return inverse[:, None] * (d - (tl.sum(d, 1) * (1.0 / c))[:, None] - hat * (tl.sum(d * hat, 1) * (1.0 / c))[:, None])


@triton.jit
def store(out, at, value, inside, ADD: tl.constexpr):
    """ADD: to what an earlier block of columns left there."""
    if ADD:
        value += tl.load(out + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def store_parts(parts, m, s, first, p: tl.constexpr, q: tl.constexpr, P: tl.constexpr, B: tl.constexpr):
    """M [P, B] and S [B] of one projection, at `parts` as [p + 1, q]."""
    row = tl.arange(0, P)
    column = first + tl.arange(0, B)
    tl.store(parts + row[:, None] * q + column[None, :], m, mask=(row < p)[:, None] & (column < q)[None, :])
    tl.store(parts + p * q + column, s, mask=column < q)


@triton.jit
def sum_parts(parts, count, part, width, Q: tl.constexpr, B: tl.constexpr):
    """[Q] of `width` values, over `count` parts that lie `part` values apart."""
    column = tl.arange(0, Q)
    total = tl.zeros([B, Q], tl.float32)
    for start in range(0, count, B):
        at = start + tl.arange(0, B)
        total += tl.load(parts + at[:, None] * part + column[None, :], mask=(at < count)[:, None] & (column < width)[None, :], other=0.0)
    return tl.sum(total, 0)


@triton.jit
def reduce_projection(parts, w, scale, offset, d_w, d_b, row, p, q, count, part, Q: tl.constexpr, B: tl.constexpr, HAS_B: tl.constexpr):
    """The gradients of a row of w and of b; returns those of that channel's scale and offset."""
    column = tl.arange(0, Q)
    m = sum_parts(parts + row * q, count, part, q, Q, B)
    s = sum_parts(parts + p * q, count, part, q, Q, B)
    b_w = tl.load(w + row * q + column, mask=column < q, other=0.0).to(tl.float32)
    d = tl.load(scale + row).to(tl.float32) * m + tl.load(offset + row).to(tl.float32) * s
    tl.store(d_w + row * q + column, d.to(d_w.dtype.element_ty), mask=column < q)
    if HAS_B:
        if row == 0:
            tl.store(d_b + column, s.to(d_b.dtype.element_ty), mask=column < q)
    return tl.sum(b_w * m, 0), tl.sum(b_w * s, 0)


@triton.jit
def reduce_kernel(
    parts, w, scale, offset, gate_w, gate_scale, gate_offset, d_w, d_b, d_scale, d_offset, d_gate_w, d_gate_b, d_gate_scale, d_gate_offset,
    p, gate_p, q, count, Q: tl.constexpr, B: tl.constexpr, HAS_B: tl.constexpr, ONE_NORM: tl.constexpr,
):  # fmt: skip
    """parts [count, p + 1 + gate_p + 1, q] in fp32. A program a channel in."""
    row = tl.program_id(0)
    part = (p + 1 + gate_p + 1) * q
    gate_parts = parts + (p + 1) * q
    if ONE_NORM:
        d_s, d_o = reduce_projection(parts, w, scale, offset, d_w, d_b, row, p, q, count, part, Q, B, HAS_B)
        g_s, g_o = reduce_projection(gate_parts, gate_w, scale, offset, d_gate_w, d_gate_b, row, gate_p, q, count, part, Q, B, HAS_B)
        tl.store(d_scale + row, (d_s + g_s).to(d_scale.dtype.element_ty))
        tl.store(d_offset + row, (d_o + g_o).to(d_offset.dtype.element_ty))
    else:
        if row < p:
            d_s, d_o = reduce_projection(parts, w, scale, offset, d_w, d_b, row, p, q, count, part, Q, B, HAS_B)
            tl.store(d_scale + row, d_s.to(d_scale.dtype.element_ty))
            tl.store(d_offset + row, d_o.to(d_offset.dtype.element_ty))
        if row < gate_p:
            g_s, g_o = reduce_projection(
                gate_parts, gate_w, gate_scale, gate_offset, d_gate_w, d_gate_b, row, gate_p, q, count, part, Q, B, HAS_B
            )
            tl.store(d_gate_scale + row, g_s.to(d_gate_scale.dtype.element_ty))
            tl.store(d_gate_offset + row, g_o.to(d_gate_offset.dtype.element_ty))


@dataclass(frozen=True)
class Projections:
    """w [p, q] and gate_w [gate_p, q], biases b, gate_b [q] both or neither, each behind a layer norm's scale and offset."""

    w: Tensor
    b: Tensor | None
    scale: Tensor
    offset: Tensor
    gate_w: Tensor
    gate_b: Tensor | None
    gate_scale: Tensor
    gate_offset: Tensor

    def check(self, x: Tensor) -> None:
        """Raises NotImplementedError for what kernels cannot do with x [r, n, c]."""
        if x.stride(2) != 1:
            raise NotImplementedError(f"gated projections of channels that lie {x.stride(2)} apart. They must lie side by side.")
        widest = max(*self.w.shape, *self.gate_w.shape)
        if widest > WIDEST:
            raise NotImplementedError(f"gated projections of at most {WIDEST} channels. Got {widest}.")
        if x.shape[0] * x.shape[1] >= 2**31:
            raise NotImplementedError(f"{list(x.shape)} is more than a kernel counts. Use fewer rows.")

    def fold(self) -> tuple[Tensor, Tensor]:
        """[p + gate_p, q], and [2, q] in fp32."""
        (p, q), gate_p = self.w.shape, len(self.gate_w)
        f, bias = self.w.new_empty(p + gate_p, q), torch.empty(2, q, dtype=torch.float32, device=self.w.device)
        fold_kernel[(2, cdiv(q, FOLDED))](
            self.w, self.b, self.scale, self.offset, self.gate_w, self.gate_b, self.gate_scale, self.gate_offset, f, bias, p, gate_p, q,
            P=power_of_2(max(p, gate_p)), B=FOLDED, HAS_B=self.b is not None, num_warps=4,
        )  # fmt: skip
        return f, bias

    def parts(self, tokens: int) -> Tensor:
        """Room for what each program of a backward leaves, [programs, p + 1 + gate_p + 1, q]."""
        (p, q), gate_p = self.w.shape, len(self.gate_w)
        programs = min(PROGRAMS, max(1, tokens // TOKENS_EACH))
        return torch.empty(programs, p + 1 + gate_p + 1, q, dtype=torch.float32, device=self.w.device)

    def reduce(self, parts: Tensor) -> "Projections":
        """The gradients. Behind one norm, that of the gate's scale and offset is in the other's."""
        (p, q), gate_p, one = self.w.shape, len(self.gate_w), self.gate_scale is self.scale
        d = Projections(*(None if x is None else torch.empty_like(x) for x in vars(self).values()))  # type: ignore[arg-type]
        reduce_kernel[(max(p, gate_p),)](
            parts, self.w, self.scale, self.offset, self.gate_w, self.gate_scale, self.gate_offset, d.w, d.b, d.scale, d.offset,
            d.gate_w, d.gate_b, d.gate_scale, d.gate_offset, p, gate_p, q, len(parts),
            Q=power_of_2(q), B=FOLDED, HAS_B=self.b is not None, ONE_NORM=one, num_warps=4,
        )  # fmt: skip
        return d
