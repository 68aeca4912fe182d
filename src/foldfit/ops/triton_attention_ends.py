"""What lies around the attention in backward, at both ends: the output projection with the gate, and the projections with the layer norm.

AF2 Suppl. Alg. 7, lines 1-2, 4 and 6-7. Each is a product of 16 bits whose result is used where it is made: the gradient of the gated
output becomes those of the attention and of the gate, and the gradient of the norm's result that of the rows. The gradients of biases and
of the norm are sums over tokens, which programs leave in parts: no atomics, the same bits every time.

Shapes: N tokens, c channels, h heads, d head dim, e = h d; what q, k, v and gate have in common lies as [N, 4, h, d]. In kernels: T tokens
of a tile, C, D padded for a product, B columns of some heads.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.triton_attention import LOG2E, dot, padded_dim, precision_of
from foldfit.ops.triton_layer_norm import normalised

WIDEST = 256
"""Channels that a program holds at once."""
PROGRAMS = 264
"""Of `open_gate`, at most, for each block of columns: two for each multiprocessor of an H100."""
COLUMNS = 128
TOKENS = 128
"""Of a program of `through_norm`, and at least of one of `open_gate`: their parts are little beside what they read."""


@triton.jit
def gate_kernel(
    g, w, o, projected, grads, delta, parts, tokens, n, c,
    H: tl.constexpr, DIM: tl.constexpr, D: tl.constexpr, HEADS: tl.constexpr, BLOCKS: tl.constexpr, T: tl.constexpr, C: tl.constexpr,
    S: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """g [N, c], w [e, c], o [N, e], projected and grads [N, 4, e] -> du and dgate into grads, delta [r, h, n], parts [programs, e + c].

    BLOCKS programs share their tokens, each with its heads, and with its part of g's channels to sum.
    """
    E: tl.constexpr = H * DIM
    B: tl.constexpr = HEADS * D
    block = tl.program_id(0) % BLOCKS
    first = tl.program_id(0) // BLOCKS
    channel = tl.arange(0, C)
    slice = block * S + tl.arange(0, S)
    head = block * HEADS + tl.arange(0, B) // D
    column = head * DIM + tl.arange(0, B) % D
    real = (head < H) & (tl.arange(0, B) % D < DIM)
    heads = block * HEADS + tl.arange(0, HEADS)
    # [C, B]
    b_w = tl.load(w + column[None, :] * c + channel[:, None], mask=real[None, :] & (channel < c)[:, None], other=0.0)
    of_gate = tl.zeros([T, B], tl.float32)
    of_out = tl.zeros([T, S], tl.float32)
    for tile in range(first, tl.cdiv(tokens, T), tl.num_programs(0) // BLOCKS):
        token = tile * T + tl.arange(0, T)
        wide = token.to(tl.int64)[:, None]
        here = (token < tokens)[:, None]
        inside = here & real[None, :]
        # [T, C], [T, B]
        b_g = tl.load(g + wide * c + channel[None, :], mask=here & (channel < c)[None, :], other=0.0)
        do = dot(b_g, b_w, None, PRECISION)
        b_o = tl.load(o + wide * E + column[None, :], mask=inside, other=0.0).to(tl.float32)
        gate = tl.load(projected + wide * (4 * E) + 3 * E + column[None, :], mask=inside, other=0.0).to(tl.float32)
        gate = 1 / (1 + tl.exp2(gate * -LOG2E))
        tl.store(grads + wide * (4 * E) + column[None, :], (do * gate).to(grads.dtype.element_ty), mask=inside)
        do *= b_o
        at = ((token // n).to(tl.int64) * (H * n) + token % n)[:, None] + heads[None, :] * n
        tl.store(delta + at, tl.sum(tl.reshape(do, [T, HEADS, D]), 2), mask=here & (heads < H)[None, :])
        do *= 1 - gate
        tl.store(grads + wide * (4 * E) + 3 * E + column[None, :], do.to(grads.dtype.element_ty), mask=inside)
        if HAS_BIAS:
            of_gate += do
            of_out += tl.load(g + wide * c + slice[None, :], mask=here & (slice < c)[None, :], other=0.0).to(tl.float32)
    if HAS_BIAS:
        parts += first * (E + c)
        tl.store(parts + column, tl.sum(of_gate, 0), mask=real)
        tl.store(parts + E + slice, tl.sum(of_out, 0), mask=slice < c)


@triton.jit
def norm_kernel(
    grads, w, x, scale, offset, d_x, y, parts, tokens, c, width,
    T: tl.constexpr, C: tl.constexpr, K: tl.constexpr, S: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """grads [N, width], w [c, width], x [N, c] -> d_x and y, the norm's result, [N, c]; parts [programs, 2, c].

    The product goes to d_x first, and S tokens at a time come back for the norm: a tile would be more than the registers hold.
    """
    channel = tl.arange(0, C)
    token = tl.program_id(0) * T + tl.arange(0, T)
    k = tl.arange(0, K)
    # [T, K], [K, C]
    from_grads = grads + token.to(tl.int64)[:, None] * width + k[None, :]
    from_w = w + channel[None, :] * width + k[:, None]
    d = tl.zeros([T, C], tl.float32)
    tl.assume(width > 0)
    for start in range(0, width, K):
        if EVEN:
            b_grads = tl.load(from_grads + start)
            b_w = tl.load(from_w + start)
        else:
            b_grads = tl.load(from_grads + start, mask=(token < tokens)[:, None] & (start + k < width)[None, :], other=0.0)
            b_w = tl.load(from_w + start, mask=(channel < c)[None, :] & (start + k < width)[:, None], other=0.0)
        d = dot(b_grads, b_w, d, PRECISION)
    at = token.to(tl.int64)[:, None] * c + channel[None, :]
    tl.store(d_x + at, d.to(d_x.dtype.element_ty), mask=(token < tokens)[:, None] & (channel < c)[None, :])
    tl.debug_barrier()
    b_scale = tl.load(scale + channel, mask=channel < c, other=0.0).to(tl.float32)[None, :]
    b_offset = tl.load(offset + channel, mask=channel < c, other=0.0).to(tl.float32)[None, :]
    of_scale = tl.zeros([S, C], tl.float32)
    of_offset = tl.zeros([S, C], tl.float32)
    for start in range(0, T, S):
        some = tl.program_id(0) * T + start + tl.arange(0, S)
        # [S, C]
        flat = some.to(tl.int64)[:, None] * c + channel[None, :]
        inside = (some < tokens)[:, None] & (channel < c)[None, :]
        hat, inverse = normalised(tl.load(x + flat, mask=inside, other=0.0).to(tl.float32), c, C)
        tl.store(y + flat, (hat * b_scale + b_offset).to(y.dtype.element_ty), mask=inside)
        d_y = tl.load(d_x + flat, mask=inside, other=0.0).to(tl.float32)
        of_scale += d_y * hat
        of_offset += d_y
        d_y *= b_scale
        d_y = inverse[:, None] * (d_y - (tl.sum(d_y, 1) / c)[:, None] - hat * (tl.sum(d_y * hat, 1) / c)[:, None])
        tl.store(d_x + flat, d_y.to(d_x.dtype.element_ty), mask=inside)
    parts += tl.program_id(0) * 2 * c
    tl.store(parts + channel, tl.sum(of_scale, 0), mask=channel < c)
    tl.store(parts + c + channel, tl.sum(of_offset, 0), mask=channel < c)


@triton.jit
def sum_kernel(parts, out, count, width, B: tl.constexpr, W: tl.constexpr):
    """parts [count, width] in fp32, summed over the first axis in the order in which they lie."""
    column = tl.program_id(0) * W + tl.arange(0, W)
    total = tl.zeros([B, W], tl.float32)
    for start in range(0, count, B):
        part = start + tl.arange(0, B)
        at = part[:, None] * width + column[None, :]
        total += tl.load(parts + at, mask=(part < count)[:, None] & (column < width)[None, :], other=0.0)
    tl.store(out + column, tl.sum(total, 0).to(out.dtype.element_ty), mask=column < width)


def sum_parts(parts: Tensor, dtype: torch.dtype) -> Tensor:
    """parts [count, width] -> [width]."""
    out = torch.empty(parts.shape[1], dtype=dtype, device=parts.device)
    sum_kernel[(triton.cdiv(len(out), 16),)](parts, out, *parts.shape, B=64, W=16, num_warps=4)
    return out


def fits(x: Tensor) -> bool:
    """Whether these kernels are for x [..., c]; in fp32 the library's products are faster."""
    return x.dtype != torch.float32 and x.shape[-1] <= WIDEST


def open_gate(g: Tensor, w: Tensor, o: Tensor, projected: Tensor, grads: Tensor, delta: Tensor, biased: bool) -> tuple[Tensor | None, ...]:
    """g [r, n, c], w [h, d, c], o [r, n, h, d], projected [r, n, 4, h, d] -> du and dgate into the first and last part of grads, delta
    [r, h, n]. Returns the gradients of the biases [h, d] and [c], if `biased`."""
    (r, n, h, d), c = o.shape, g.shape[2]
    tile = gate_tile(c, h, d)
    blocks = triton.cdiv(h, tile["HEADS"])
    programs = min(PROGRAMS // blocks, max(1, r * n // TOKENS))
    parts = torch.empty(programs, h * d + c, dtype=torch.float32, device=g.device) if biased else None
    gate_kernel[(programs * blocks,)](
        g, w, o, projected, grads, delta, parts, r * n, n, c,
        H=h, DIM=d, D=padded_dim(d), BLOCKS=blocks, S=triton.next_power_of_2(triton.cdiv(c, blocks)), HAS_BIAS=biased,
        PRECISION=precision_of(g.dtype), **tile,
    )  # fmt: skip
    if parts is None:
        return None, None
    of_gate, of_out = sum_parts(parts, g.dtype).split([h * d, c])
    return of_gate.view(h, d), of_out


def gate_tile(c: int, h: int, d: int) -> dict[str, int | None]:
    heads = max(1, min(triton.next_power_of_2(h), COLUMNS // padded_dim(d)))
    return {"HEADS": heads, "T": 64, "C": padded_dim(c), "num_warps": 8, "num_stages": 1, "maxnreg": 128}


def through_norm(grads: Tensor, w: Tensor, x: Tensor, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """grads [N, 4 e], w [c, 4 e], x [r, n, c] -> the gradient of x, the norm's result, both as x, the gradients of scale and offset."""
    c, tokens, width = x.shape[2], grads.shape[0], grads.shape[1]
    programs, k = triton.cdiv(tokens, TOKENS), 64
    parts = torch.empty(programs, 2 * c, dtype=torch.float32, device=x.device)
    d_x, y = torch.empty_like(x), torch.empty_like(x)
    even = tokens % TOKENS == 0 and width % k == 0 and padded_dim(c) == c
    norm_kernel[(programs,)](
        grads, w, x, scale, offset, d_x, y, parts, tokens, c, width,
        T=TOKENS, C=padded_dim(c), K=k, S=16, EVEN=even, PRECISION=precision_of(x.dtype), num_warps=8, num_stages=3,
    )  # fmt: skip
    d_scale, d_offset = sum_parts(parts, scale.dtype).split(c)
    return d_x, y, d_scale, d_offset
