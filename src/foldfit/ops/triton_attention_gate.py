"""Where attention's backward begins: from the gradient of its output to those of the gate and of what the gate lets through.

With u the attention before the gate and o = sigmoid(gate) u, only o is kept (the projection that follows needs it too):
du = sigmoid(gate) do, dgate = do o (1 - sigmoid(gate)), and the soft-max's row sum delta = sum_d du u = sum_d do o.
Shapes: r rows, n tokens, h heads, d head dim. In kernels: T tokens of a tile, HEADS and D the heads and the head dim padded.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.triton_attention import LOG2E, padded_dim

PREPARED, TOKENS = 4096, 64
"""Values of a tile of `prepare_kernel`, and tokens of a program."""


@triton.jit
def prepare_kernel(
    do, o, gate, dgate, du, delta, parts, tokens, n, gate_r, gate_n,
    GATE_H: tl.constexpr, DO_N: tl.constexpr, OUT_N: tl.constexpr, H: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, D: tl.constexpr,
    T: tl.constexpr, TILES: tl.constexpr, HAS_PARTS: tl.constexpr,
):  # fmt: skip
    """Tiles of T tokens, all heads (HEADS of them, H real): all reads and writes but delta's are one block of memory. du may be where
    do is. parts [programs, h d]: dgate summed over tokens."""
    pair = tl.arange(0, T * HEADS)
    head = pair % HEADS
    channel = tl.arange(0, D)
    column = head[:, None] * DIM + channel[None, :]
    real = (head < H)[:, None] & (channel < DIM)[None, :]
    sums = tl.zeros([T * HEADS, D], tl.float32)
    for tile in range(TILES):
        token = (tl.program_id(0) * TILES + tile) * T + pair // HEADS
        row = (token // n).to(tl.int64)
        wide = token.to(tl.int64)[:, None]
        inside = (token < tokens)[:, None] & real
        # [T HEADS, D]
        b_do = tl.load(do + wide * DO_N + column, mask=inside, other=0.0).to(tl.float32)
        b_o = tl.load(o + wide * (H * DIM) + column, mask=inside, other=0.0).to(tl.float32)
        gates = gate + (row * gate_r + (token % n).to(tl.int64) * gate_n)[:, None] + head[:, None] * GATE_H + channel[None, :]
        sigmoid = 1 / (1 + tl.exp2(tl.load(gates, mask=inside, other=0.0).to(tl.float32) * -LOG2E))
        tl.store(du + wide * OUT_N + column, (b_do * sigmoid).to(du.dtype.element_ty), mask=inside)
        b_do *= b_o
        tl.store(delta + (row * H + head) * n + token % n, tl.sum(b_do, 1), mask=(token < tokens) & (head < H))
        b_do *= 1 - sigmoid
        tl.store(dgate + wide * OUT_N + column, b_do.to(dgate.dtype.element_ty), mask=inside)
        if HAS_PARTS:
            sums += b_do
    if HAS_PARTS:
        sums = tl.sum(tl.reshape(sums, [T, HEADS, D]), 0)
        head = tl.arange(0, HEADS)
        at = head[:, None] * DIM + channel[None, :]
        tl.store(parts + tl.program_id(0) * (H * DIM) + at, sums, mask=(head < H)[:, None] & (channel < DIM)[None, :])


def prepare(do: Tensor, gate: Tensor, o: Tensor, grads: Tensor, delta: Tensor, parts: Tensor | None = None) -> None:
    """do and o [r, n, h, d] -> du and dgate into grads [r, n, 4, h, d], delta [r, h, n]. do may be where du will be.

    parts: [programs, h, d] as of `gate_parts`, for dgate summed over tokens.
    """
    r, n, h, d = o.shape
    heads, width = triton.next_power_of_2(h), padded_dim(d)
    tokens = max(1, PREPARED // (heads * width))
    tiles = max(1, TOKENS // tokens)
    prepare_kernel[(triton.cdiv(r * n, tokens * tiles),)](
        do, o, gate, grads[:, :, 3], grads, delta, parts, r * n, n, gate.stride(0), gate.stride(1),
        GATE_H=gate.stride(2), DO_N=h * d if do.is_contiguous() else do.stride(1), OUT_N=4 * h * d, H=h, HEADS=heads, DIM=d, D=width,
        T=tokens, TILES=tiles, HAS_PARTS=parts is not None, num_warps=4,
    )  # fmt: skip


def gate_parts(o: Tensor) -> Tensor:
    """Room for what each program of `prepare` leaves, for o [r, n, h, d]: 4 bytes of 64 tokens at the most."""
    r, n, h, d = o.shape
    tokens = max(1, PREPARED // (triton.next_power_of_2(h) * padded_dim(d)))
    programs = triton.cdiv(r * n, tokens * max(1, TOKENS // tokens))
    return torch.empty(programs, h, d, dtype=torch.float32, device=o.device)
