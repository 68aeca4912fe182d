"""Where attention's backward begins: from the gradient of its output to those of the gate and of what the gate lets through.

With u the attention before the gate and o = sigmoid(gate) u, only o is kept (the projection that follows needs it too):
du = sigmoid(gate) do, dgate = do o (1 - sigmoid(gate)), and the soft-max's row sum delta = sum_d du u = sum_d do o.
`prepare` does that; `open_gate` begins a step before, with the gradient of the output projection, and sums the biases' on the way: in
16 bits 0.25 ms where product, `prepare` and two sums take 0.32 (an NVIDIA H100, Triton 3.6, 512 x 384 tokens, 256 channels).

Shapes: r rows, n tokens of a row, N all of them, c channels, h heads, d head dim, e = h d; what q, k, v and gate have in common lies as
[N, 4, h, d]. In kernels: T tokens (of `prepare`: pairs of a token and a head) of a tile, C and D padded, B columns of some heads.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.grids import cdiv, power_of_2
from foldfit.ops.triton_attention import LOG2E, dot, padded_dim, precision_of
from foldfit.ops.triton_layer_norm import sum_parts

WIDEST = 256
"""Channels that a program holds at once."""
PROGRAMS, TOKENS_EACH = 264, 128
"""Of `open_gate`, at most: two for each multiprocessor of an H100; and tokens of one, at least: its sums are little beside its reads."""
COLUMNS, TOKENS, WARPS, REGISTERS = 64, 64, 8, 128
"""Of a tile, and how it runs: the best of 10 on an NVIDIA H100."""


@triton.jit
def prepare_kernel(
    do, o, gate, dgate, du, delta, n, gate_r, gate_n,
    GATE_H: tl.constexpr, DO_N: tl.constexpr, OUT_N: tl.constexpr, H: tl.constexpr, DIM: tl.constexpr, D: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """T (token, head) pairs of a row: all reads and writes but delta's are one block of memory. du may be where do is."""
    tiles = tl.cdiv(n * H, T)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    pair = tl.program_id(0) % tiles * T + tl.arange(0, T)
    channel = tl.arange(0, D)
    inside = (pair < n * H)[:, None] & (channel < DIM)[None, :]
    column = (pair % H)[:, None] * DIM + channel[None, :]
    token = (row * n + pair // H)[:, None]
    gates = gate + row * gate_r + (pair // H).to(tl.int64)[:, None] * gate_n + (pair % H)[:, None] * GATE_H + channel[None, :]
    # [T, D]
    b_do = tl.load(do + token * DO_N + column, mask=inside, other=0.0).to(tl.float32)
    b_o = tl.load(o + token * (H * DIM) + column, mask=inside, other=0.0).to(tl.float32)
    sigmoid = 1 / (1 + tl.exp2(tl.load(gates, mask=inside, other=0.0).to(tl.float32) * -LOG2E))
    tl.store(du + token * OUT_N + column, (b_do * sigmoid).to(du.dtype.element_ty), mask=inside)
    tl.store(dgate + token * OUT_N + column, (b_do * b_o * (1 - sigmoid)).to(dgate.dtype.element_ty), mask=inside)
    tl.store(delta + (row * H + pair % H) * n + pair // H, tl.sum(b_do * b_o, 1), mask=pair < n * H)


@triton.jit
def gate_kernel(
    g, w, o, projected, grads, delta, parts, tokens, n, c,
    H: tl.constexpr, DIM: tl.constexpr, D: tl.constexpr, HEADS: tl.constexpr, BLOCKS: tl.constexpr, T: tl.constexpr, C: tl.constexpr,
    S: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """g [N, c], w [e, c], o [N, e], projected and grads [N, 4, e] -> du and dgate into grads, delta [r, h, n], parts [programs, e + c].

    BLOCKS programs share their tokens, each with HEADS heads, and with S of g's channels to sum. Loads come first: each would wait for
    memory anew behind the product.
    """
    E: tl.constexpr = H * DIM
    B: tl.constexpr = HEADS * D
    block = tl.program_id(0) % BLOCKS
    first = tl.program_id(0) // BLOCKS
    channel = tl.arange(0, C)
    share = block * S + tl.arange(0, S)
    head = block * HEADS + tl.arange(0, B) // D
    column = head * DIM + tl.arange(0, B) % D
    real = (head < H) & (tl.arange(0, B) % D < DIM)
    heads = block * HEADS + tl.arange(0, HEADS)
    # [C, B]
    b_w = tl.load(w + column[None, :] * c + channel[:, None], mask=real[None, :] & (channel < c)[:, None], other=0.0)
    of_gate = tl.zeros([T, B], tl.float32)
    of_out = tl.zeros([T, S], tl.float32)
    for tile in tl.range(first, tl.cdiv(tokens, T), tl.num_programs(0) // BLOCKS, num_stages=1):
        token = tile * T + tl.arange(0, T)
        wide = token.to(tl.int64)[:, None]
        here = (token < tokens)[:, None]
        inside = here & real[None, :]
        # [T, C], [T, B], [T, B]
        b_g = tl.load(g + wide * c + channel[None, :], mask=here & (channel < c)[None, :], other=0.0)
        b_o = tl.load(o + wide * E + column[None, :], mask=inside, other=0.0)
        gate = tl.load(projected + wide * (4 * E) + 3 * E + column[None, :], mask=inside, other=0.0).to(tl.float32)
        do = dot(b_g, b_w, None, PRECISION)
        gate = 1 / (1 + tl.exp2(gate * -LOG2E))
        tl.store(grads + wide * (4 * E) + column[None, :], (do * gate).to(grads.dtype.element_ty), mask=inside)
        do *= b_o.to(tl.float32)
        at = ((token // n).to(tl.int64) * (H * n) + token % n)[:, None] + heads[None, :] * n
        tl.store(delta + at, tl.sum(tl.reshape(do, [T, HEADS, D]), 2), mask=here & (heads < H)[None, :])
        do *= 1 - gate
        tl.store(grads + wide * (4 * E) + 3 * E + column[None, :], do.to(grads.dtype.element_ty), mask=inside)
        if HAS_BIAS:
            of_gate += do
            of_out += tl.load(g + wide * c + share[None, :], mask=here & (share < c)[None, :], other=0.0).to(tl.float32)
    if HAS_BIAS:
        parts += first * (E + c)
        tl.store(parts + column, tl.sum(of_gate, 0), mask=real)
        tl.store(parts + E + share, tl.sum(of_out, 0), mask=share < c)


def prepare(do: Tensor, gate: Tensor, o: Tensor, grads: Tensor, delta: Tensor) -> None:
    """do and o [r, n, h, d] -> du and dgate into grads [r, n, 4, h, d], delta [r, h, n]. do may be where du will be."""
    r, n, h, d = o.shape
    pairs = 128
    prepare_kernel[(r * cdiv(n * h, pairs),)](
        do, o, gate, grads[:, :, 3], grads, delta, n, gate.stride(0), gate.stride(1), GATE_H=gate.stride(2),
        DO_N=h * d if do.is_contiguous() else do.stride(1), OUT_N=4 * h * d, H=h, DIM=d, D=padded_dim(d), T=pairs, num_warps=4,
    )  # fmt: skip


def open_gate(
    g: Tensor, w: Tensor, o: Tensor, projected: Tensor, grads: Tensor, delta: Tensor, biased: bool
) -> tuple[Tensor | None, Tensor | None]:
    """g [N, c], w [h, d, c], o [r, n, h, d], projected [r, n, 4, h, d] -> du and dgate into the first and last part of grads, as
    projected, and delta [r, h, n]. Returns the gradients of the biases, [h, d] and [c], if `biased`.

    In fp32 the library's products are faster.
    """
    (r, n, h, d), c = o.shape, g.shape[1]
    if g.dtype == torch.float32 or c > WIDEST:
        torch.mm(g, w.flatten(0, 1).t(), out=grads.view(r * n, -1)[:, : h * d])
        prepare(grads[:, :, 0], projected[:, :, 3], o, grads, delta)
        if not biased:
            return None, None
        ones = g.new_ones(1, r * n)
        return (ones @ grads.view(r * n, -1)[:, 3 * h * d :]).view(h, d), (ones @ g)[0]
    heads = max(1, min(power_of_2(h), COLUMNS // padded_dim(d)))
    blocks = cdiv(h, heads)
    programs = max(1, min(PROGRAMS // blocks, r * n // TOKENS_EACH))
    parts = torch.empty(programs, h * d + c, dtype=torch.float32, device=g.device) if biased else None
    gate_kernel[(programs * blocks,)](
        g, w, o, projected, grads, delta, parts, r * n, n, c,
        H=h, DIM=d, D=padded_dim(d), HEADS=heads, BLOCKS=blocks, T=TOKENS, C=padded_dim(c),
        S=power_of_2(cdiv(c, blocks)), HAS_BIAS=biased, PRECISION=precision_of(g.dtype),
        num_warps=WARPS, num_stages=1, maxnreg=REGISTERS,
    )  # fmt: skip
    if parts is None:
        return None, None
    of_gate, of_out = sum_parts(parts, g.dtype).split([h * d, c])
    return of_gate.view(h, d), of_out
