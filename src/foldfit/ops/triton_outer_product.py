"""The outer product mean in Triton: outer products of a tile of pairs and of a few channels stay on the chip.

AF2 Suppl. Alg. 10, lines 3-4. A program owns X x Y pairs and goes through the channels U x V at a time: the products
[X * U, Y * V] over sequences, laid out anew as [X * Y, U * V], meet their part of the output weights. So the operands are read as
by any matrix product, and nothing with both channels is written. hopper_outer_product.py does the same on NVIDIA Hopper, where it fits.

Shapes: r rows, R all rows, n sequences, o p channels, z channels out. In kernels: X Y pairs, U V channels, K sequences of a
tile, Z the width padded for a product.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.grids import cdiv
from foldfit.ops.triton_attention import dot, on_hopper, padded_dim, precision_of
from foldfit.ops.triton_residual import landing, put
from foldfit.ops.unread import is_unread

WIDEST = 128
"""Channels out that a program holds at once."""
ALIGNED = 16
"""Sequences come in multiples of it: of others a row would begin where no wide load can."""


@dataclass(frozen=True)
class Tile:
    """One program's share: pairs X x Y, channels U x V and sequences at a time; and how it runs."""

    pairs: tuple[int, int]
    channels: tuple[int, int]
    sequences: int
    warps: int
    stages: int
    """Of the loads' pipeline: one tile more than are in flight."""

    @property
    def options(self) -> dict[str, int]:
        sizes = dict(zip("XYUVK", (*self.pairs, *self.channels, self.sequences), strict=True))
        return {**sizes, "num_warps": self.warps, "num_stages": self.stages}

    def programs(self, r: int, rows: int) -> int:
        """Tiles of pairs."""
        return cdiv(r, self.pairs[0]) * cdiv(rows, self.pairs[1])


def tile_of(n: int, dtype: torch.dtype) -> Tile:
    """The fastest of 14 in 16 bits, of 3 in tf32 and of 3 in fp32, on an NVIDIA H100 (Triton 3.6)."""
    if dtype == torch.float32:
        return Tile((8, 8), (8, 8), 16, 4, 2) if precision_of(dtype) != "tf32" else Tile((8, 16), (16, 8), 32, 8, 2)
    return Tile((16, 16), (8, 8), 64, 8, 3) if n <= 256 else Tile((8, 16), (16, 8), 64, 8, 3)


@triton.jit
def operand(x, first, rows, channel, channels, k, n, S: tl.constexpr, C: tl.constexpr):
    """Where S residues from `first` and C channels from `channel` are, [S * C, K]. Beyond the end it repeats the last."""
    at = tl.arange(0, S * C)
    residue = tl.minimum(first + at // C, rows - 1).to(tl.int64)
    return x + (residue * channels + tl.minimum(channel + at % C, channels - 1))[:, None] * n + k[None, :]


@triton.jit
def products(
    a, b, i, j, first_o, first_p, r, rows, n, o, p, X: tl.constexpr, Y: tl.constexpr, U: tl.constexpr, V: tl.constexpr,
    K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The outer products of a tile summed over all sequences, [X, U, Y, V] in storage precision."""
    k = tl.arange(0, K)
    at_a = operand(a, i, r, first_o, o, k, n, X, U)
    at_b = operand(b, j, rows, first_p, p, k, n, Y, V)
    out = tl.zeros([X * U, Y * V], tl.float32)
    for start in range(0, n, K):
        inside = (start + k < n)[None, :]
        b_a = tl.load(at_a + start, mask=inside, other=0.0)
        b_b = tl.load(at_b + start, mask=inside, other=0.0)
        out = dot(b_a, tl.trans(b_b), out, PRECISION)
    return out.to(a.dtype.element_ty).reshape(X, U, Y, V)


@triton.jit
def forward_kernel(
    a, b, w, w_b, scale, r, rows, n, o, p, z,
    target, source, factors, target_r, target_n, source_r, source_n, factors_r, factors_n,
    X: tl.constexpr, Y: tl.constexpr, U: tl.constexpr, V: tl.constexpr, K: tl.constexpr, Z: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """target [r, R, z], as `put` has it."""
    tiles = tl.cdiv(rows, Y)
    i = tl.program_id(0) // tiles * X
    j = tl.program_id(0) % tiles * Y
    width = tl.arange(0, Z)
    channel = tl.arange(0, U * V)
    parts = tl.cdiv(p, V)
    # [X * Y, Z]
    y = tl.zeros([X * Y, Z], tl.float32)
    for part in range(0, tl.cdiv(o, U) * parts):
        first_o = part // parts * U
        first_p = part % parts * V
        outer = products(a, b, i, j, first_o, first_p, r, rows, n, o, p, X, Y, U, V, K, PRECISION)
        outer = outer.permute(0, 2, 1, 3).reshape(X * Y, U * V)
        at_o = first_o + channel // V
        at_p = first_p + channel % V
        real = ((at_o < o) & (at_p < p))[:, None] & (width < z)[None, :]
        b_w = tl.load(w + (at_o * p + at_p)[:, None] * z + width[None, :], mask=real, other=0.0)
        y = dot(outer, b_w, y, PRECISION)
    pair = tl.arange(0, X * Y)
    at_i = i + pair // Y
    at_j = j + pair % Y
    real = (at_i < r) & (at_j < rows)
    at = at_i.to(tl.int64) * rows + at_j
    y += tl.load(w_b + width, mask=width < z, other=0.0).to(tl.float32)[None, :]
    y *= tl.load(scale + at, mask=real, other=0.0).to(tl.float32)[:, None]
    inside = real[:, None] & (width < z)[None, :]
    put(
        y, at_i.to(tl.int64), at_j.to(tl.int64), width, inside,
        target, source, factors, target_r, target_n, source_r, source_n, factors_r, factors_n,
    )  # fmt: skip


def aligned(x: Tensor) -> Tensor:
    """x [..., n], or a copy with zeros at its end."""
    missing = -x.shape[-1] % ALIGNED
    return F.pad(x, (0, missing)) if missing else x


def forward(a: Tensor, b: Tensor, w: Tensor, w_b: Tensor, scale: Tensor) -> Tensor:
    a, b = aligned(a), aligned(b)
    (r, _, n), rows, (o, p, z) = a.shape, len(b), w.shape
    if z > WIDEST:
        raise NotImplementedError(f"an outer product mean into at most {WIDEST} channels. Got {z}.")
    (out, place), tile = landing(a, r, rows, z), tile_of(n, a.dtype)
    if on_hopper(a):
        from foldfit.ops import hopper_outer_product

        if hopper_outer_product.fits(a, b, w):
            hopper_outer_product.forward(a, b, w, w_b, scale, place)
            return out
    forward_kernel[(tile.programs(r, rows),)](
        a, b, w, w_b, scale, r, rows, n, o, p, z, *place, Z=padded_dim(z), PRECISION=precision_of(a.dtype), **tile.options
    )
    return out


class OuterProduct(torch.autograd.Function):
    """Keeps its inputs alone."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, w: Tensor, w_b: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(a, b, w, scale)
        if is_unread():
            return a.new_empty(*scale.shape, w.shape[2])
        return forward(a, b, w, w_b, scale)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        from foldfit.ops.triton_outer_product_backward import backward

        a, b, w, scale = ctx.saved_tensors
        d_a, d_b, d_w, d_w_b = backward(d_out.contiguous(), a, b, w, scale)
        return d_a.view_as(a), d_b.view_as(b), d_w, d_w_b, None


def outer_product(a: Tensor, b: Tensor, w: Tensor, w_b: Tensor, scale: Tensor) -> Tensor:
    """scale * (sum over n, o, p of a b w, plus w_b) of a [r, o, n], b [R, p, n], w [o, p, z], w_b [z], scale [r, R], as [r, R, z].

    Raises NotImplementedError for more than 128 channels z.
    """
    if torch.is_grad_enabled():
        return OuterProduct.apply(a, b, w, w_b, scale)  # type: ignore[no-any-return]
    return forward(a, b, w, w_b, scale)
