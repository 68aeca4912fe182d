"""The outer product mean in Triton: outer products of a tile of pairs and of a few channels stay on the chip.

AF2 Suppl. Alg. 10, lines 3-4. A program owns I x J pairs and goes through the channels O x P at a time: the products
[I * O, J * P] over sequences, laid out anew as [I * J, O * P], meet their part of the output weights. So the operands are read as
by any matrix product, and nothing with both channels is written.

Shapes: r rows, R all rows, n sequences, o p channels, z channels out. In kernels: I J pairs, O P channels, K sequences of a
tile, Z the width padded for a product.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.triton_attention import dot, precision_of
from foldfit.ops.triton_gated_linear import padded

WIDEST = 128
"""Channels out that a program holds at once."""


@dataclass(frozen=True)
class Tile:
    """One program's share: pairs I x J, channels O x P and sequences at a time; and how it runs."""

    pairs: tuple[int, int]
    channels: tuple[int, int]
    sequences: int
    warps: int
    stages: int
    """Of the loads' pipeline: one tile more than are in flight."""

    @property
    def options(self) -> dict[str, int]:
        sizes = dict(zip("IJOPK", (*self.pairs, *self.channels, self.sequences), strict=True))
        return {**sizes, "num_warps": self.warps, "num_stages": self.stages}

    def programs(self, r: int, rows: int) -> int:
        """Tiles of pairs."""
        return triton.cdiv(r, self.pairs[0]) * triton.cdiv(rows, self.pairs[1])


def tile_of(dtype: torch.dtype) -> Tile:
    """Measured on an NVIDIA H200 for 16 bits; fp32's is a guess that runs."""
    return Tile((4, 8), (8, 8), 32, 8, 2) if dtype == torch.float32 else Tile((8, 16), (16, 8), 64, 8, 3)


@triton.jit
def operand(x, first, rows, channel, channels, k, n, S: tl.constexpr, C: tl.constexpr):
    """Where S residues from `first` and C channels from `channel` are, [S * C, K]. Beyond the end it repeats the last."""
    at = tl.arange(0, S * C)
    residue = tl.minimum(first + at // C, rows - 1).to(tl.int64)
    return x + (residue * channels + tl.minimum(channel + at % C, channels - 1))[:, None] * n + k[None, :]


@triton.jit
def products(
    a, b, i, j, first_o, first_p, r, rows, n, o, p, I: tl.constexpr, J: tl.constexpr, O: tl.constexpr, P: tl.constexpr,
    K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The outer products of a tile summed over all sequences, [I, O, J, P] in storage precision."""
    k = tl.arange(0, K)
    at_a = operand(a, i, r, first_o, o, k, n, I, O)
    at_b = operand(b, j, rows, first_p, p, k, n, J, P)
    out = tl.zeros([I * O, J * P], tl.float32)
    for start in range(0, n, K):
        inside = (start + k < n)[None, :]
        b_a = tl.load(at_a + start, mask=inside, other=0.0)
        b_b = tl.load(at_b + start, mask=inside, other=0.0)
        out = dot(b_a, tl.trans(b_b), out, PRECISION)
    return out.to(a.dtype.element_ty).reshape(I, O, J, P)


@triton.jit
def forward_kernel(
    a, b, w, w_b, scale, out, r, rows, n, o, p, z,
    I: tl.constexpr, J: tl.constexpr, O: tl.constexpr, P: tl.constexpr, K: tl.constexpr, Z: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """out [r, R, z]."""
    tiles = tl.cdiv(rows, J)
    i = tl.program_id(0) // tiles * I
    j = tl.program_id(0) % tiles * J
    width = tl.arange(0, Z)
    channel = tl.arange(0, O * P)
    parts = tl.cdiv(p, P)
    # [I * J, Z]
    y = tl.zeros([I * J, Z], tl.float32)
    for part in range(0, tl.cdiv(o, O) * parts):
        first_o = part // parts * O
        first_p = part % parts * P
        outer = products(a, b, i, j, first_o, first_p, r, rows, n, o, p, I, J, O, P, K, PRECISION)
        outer = outer.permute(0, 2, 1, 3).reshape(I * J, O * P)
        at_o = first_o + channel // P
        at_p = first_p + channel % P
        real = ((at_o < o) & (at_p < p))[:, None] & (width < z)[None, :]
        b_w = tl.load(w + (at_o * p + at_p)[:, None] * z + width[None, :], mask=real, other=0.0)
        y = dot(outer, b_w, y, PRECISION)
    pair = tl.arange(0, I * J)
    at_i = i + pair // J
    at_j = j + pair % J
    real = (at_i < r) & (at_j < rows)
    at = at_i.to(tl.int64) * rows + at_j
    y += tl.load(w_b + width, mask=width < z, other=0.0).to(tl.float32)[None, :]
    y *= tl.load(scale + at, mask=real, other=0.0).to(tl.float32)[:, None]
    tl.store(out + at[:, None] * z + width[None, :], y.to(out.dtype.element_ty), mask=real[:, None] & (width < z)[None, :])


def forward(a: Tensor, b: Tensor, w: Tensor, w_b: Tensor, scale: Tensor) -> Tensor:
    (r, _, n), rows, (o, p, z), tile = a.shape, len(b), w.shape, tile_of(a.dtype)
    if z > WIDEST:
        raise NotImplementedError(f"an outer product mean into at most {WIDEST} channels. Got {z}.")
    out = a.new_empty(r, rows, z)
    forward_kernel[(tile.programs(r, rows),)](
        a, b, w, w_b, scale, out, r, rows, n, o, p, z, Z=padded(z), PRECISION=precision_of(a.dtype), **tile.options
    )
    return out


class OuterProduct(torch.autograd.Function):
    """Keeps its inputs alone."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, w: Tensor, w_b: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(a, b, w, scale)
        return forward(a, b, w, w_b, scale)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        from foldfit.ops.triton_outer_product_backward import backward

        return *backward(d_out.contiguous(), *ctx.saved_tensors), None


def outer_product(a: Tensor, b: Tensor, w: Tensor, w_b: Tensor, scale: Tensor) -> Tensor:
    """scale * (sum over n, o, p of a b w, plus w_b) of a [r, o, n], b [R, p, n], w [o, p, z], w_b [z], scale [r, R], as [r, R, z].

    Raises NotImplementedError for more than 128 channels z.
    """
    if torch.is_grad_enabled():
        return OuterProduct.apply(a, b, w, w_b, scale)  # type: ignore[no-any-return]
    return forward(a, b, w, w_b, scale)
