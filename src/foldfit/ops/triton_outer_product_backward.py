"""The backward of the outer product mean: AF2 Suppl. Alg. 10, lines 3-4.

The gradient of the outer products, [r, o, R, p], is the one large tensor: it is written once, in storage precision, as the two
library products that give the operands' gradients read it. The outer products themselves, which the weights' gradient needs, are
computed again and stay on the chip.
Shapes and tiles: triton_outer_product.py; T pairs of a row.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.triton_attention import dot, precision_of
from foldfit.ops.triton_gated_linear import padded
from foldfit.ops.triton_outer_product import Tile, products

PROGRAMS = 128
"""Of the weights' gradient, about: one for each multiprocessor of an H200."""
PAIRS_EACH = 1024
"""Of such a program, at least: its sums are then little beside what it reads."""


@triton.jit
def weights_backward_kernel(
    d_out, a, b, scale, sums, r, rows, n, o, p, z,
    I: tl.constexpr, J: tl.constexpr, O: tl.constexpr, P: tl.constexpr, K: tl.constexpr, Z: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """sums [programs, o * p + 1, z] in fp32: of the gradients of the weights and of the bias, over each program's pairs."""
    parts = tl.cdiv(p, P)
    first_o = tl.program_id(0) // parts * O
    first_p = tl.program_id(0) % parts * P
    program = tl.program_id(1)
    tiles = tl.cdiv(rows, J)
    width = tl.arange(0, Z)
    pair = tl.arange(0, I * J)
    # [O * P, Z], [Z]
    of_w = tl.zeros([O * P, Z], tl.float32)
    of_b = tl.zeros([Z], tl.float32)
    for tile in range(program, tl.cdiv(r, I) * tiles, tl.num_programs(1)):
        i = tile // tiles * I
        j = tile % tiles * J
        outer = products(a, b, i, j, first_o, first_p, r, rows, n, o, p, I, J, O, P, K, PRECISION)
        outer = outer.permute(1, 3, 0, 2).reshape(O * P, I * J)
        at_i = i + pair // J
        at_j = j + pair % J
        real = (at_i < r) & (at_j < rows)
        at = at_i.to(tl.int64) * rows + at_j
        # [I * J, Z]
        d = tl.load(d_out + at[:, None] * z + width[None, :], mask=real[:, None] & (width < z)[None, :], other=0.0)
        d = d.to(tl.float32) * tl.load(scale + at, mask=real, other=0.0).to(tl.float32)[:, None]
        of_b += tl.sum(d, 0)
        of_w = dot(outer, d.to(outer.dtype), of_w, PRECISION)
    channel = tl.arange(0, O * P)
    at_o = first_o + channel // P
    at_p = first_p + channel % P
    real = ((at_o < o) & (at_p < p))[:, None] & (width < z)[None, :]
    sums += program * (o * p + 1) * z
    tl.store(sums + (at_o * p + at_p)[:, None] * z + width[None, :], of_w, mask=real)
    if tl.program_id(0) == 0:
        tl.store(sums + o * p * z + width, of_b, mask=width < z)


@triton.jit
def outer_backward_kernel(
    d_out, w, scale, d_outer, rows, o, p, z,
    T: tl.constexpr, O: tl.constexpr, P: tl.constexpr, Z: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """d_outer [r, o, R, p] = scale * d_out w^T, T pairs of a row a program."""
    tiles = tl.cdiv(rows, T)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    token = tl.program_id(0) % tiles * T + tl.arange(0, T)
    width = tl.arange(0, Z)
    channel = tl.arange(0, O * P)
    # [T, Z]
    at = row * rows + token
    d = tl.load(d_out + at[:, None] * z + width[None, :], mask=(token < rows)[:, None] & (width < z)[None, :], other=0.0)
    d = (d.to(tl.float32) * tl.load(scale + at, mask=token < rows, other=0.0).to(tl.float32)[:, None]).to(d.dtype)
    for first in range(0, o, O):
        at_o = first + channel // P
        at_p = channel % P
        real = (at_o < o) & (at_p < p)
        # [O * P, Z]
        b_w = tl.load(w + (at_o * p + at_p)[:, None] * z + width[None, :], mask=real[:, None] & (width < z)[None, :], other=0.0)
        y = dot(d, tl.trans(b_w), None, PRECISION).to(d.dtype)
        to = d_outer + ((row * o + at_o) * rows * p + at_p)[None, :] + (token * p)[:, None]
        tl.store(to, y, mask=(token < rows)[:, None] & real[None, :])


def weights_tile(dtype: torch.dtype) -> Tile:
    return Tile((4, 8), (8, 8), 32, 8, 2) if dtype == torch.float32 else Tile((8, 16), (16, 8), 64, 8, 3)


def outer_backward(d_out: Tensor, w: Tensor, scale: Tensor) -> Tensor:
    """The gradient of the outer products, [r * o, R * p]."""
    (r, rows, z), (o, p, _) = d_out.shape, w.shape
    half = d_out.dtype != torch.float32
    t, width = (128 if half else 32), triton.next_power_of_2(p)
    channels = max(1, (128 if half else 32) // width)
    d_outer = d_out.new_empty(r * o, rows * p)
    outer_backward_kernel[(r * triton.cdiv(rows, t),)](
        d_out, w, scale, d_outer, rows, o, p, z, T=t, O=channels, P=width, Z=padded(z), PRECISION=precision_of(d_out.dtype),
        num_warps=4, num_stages=2,
    )  # fmt: skip
    return d_outer


def weights_backward(d_out: Tensor, a: Tensor, b: Tensor, w: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of the weights [o, p, z] and of the bias [z]."""
    (r, _, n), rows, (o, p, z), tile = a.shape, len(b), w.shape, weights_tile(a.dtype)
    parts = triton.cdiv(o, tile.channels[0]) * triton.cdiv(p, tile.channels[1])
    programs = max(1, min(PROGRAMS // parts, r * rows // PAIRS_EACH))
    sums = torch.empty(programs, o * p + 1, z, dtype=torch.float32, device=a.device)
    weights_backward_kernel[(parts, programs)](
        d_out, a, b, scale, sums, r, rows, n, o, p, z, Z=padded(z), PRECISION=precision_of(a.dtype), **tile.options
    )
    sums = sums.sum(0).to(w.dtype)
    return sums[:-1].view_as(w), sums[-1]


def backward(d_out: Tensor, a: Tensor, b: Tensor, w: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    """The gradients of a [r, o, n], b [R, p, n], w [o, p, z] and w_b [z] from that of the result, [r, R, z]."""
    d_outer = outer_backward(d_out, w, scale)
    d_a = (d_outer @ b.flatten(0, 1)).view_as(a)
    d_b = (d_outer.t() @ a.flatten(0, 1)).view_as(b)
    del d_outer
    return d_a, d_b, *weights_backward(d_out, a, b, w, scale)
