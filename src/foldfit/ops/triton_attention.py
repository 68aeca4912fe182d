"""Pair-biased gated attention in Triton: the soft-max is never materialised, q, k, v and gate are read where the projection left them.

Online soft-max in tiles after Rabe & Staats (2021) and FlashAttention (Dao et al., 2022); the mathematics is AF2 Suppl. Alg. 7, lines 5-6
(Alg. 8 without the bias). Statistics and accumulators are fp32 whatever the storage. The backward is triton_attention_backward.py.

Shapes: r rows, n queries and keys, h heads, d head dim. In kernels: Q, K queries and keys of a tile, D the head dim padded for a matrix product.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

TOLERANCE = {"fp32": 1e-5, "tf32": 1e-3, "bf16": 1e-2, "fp16": 2e-3}
"""||x - x64|| / ||x64|| of the output and of every gradient x, by precision; x64 in fp64 from the same inputs."""

LOG2E = tl.constexpr(1.4426950408889634)  # exp2 is the hardware's own: soft-max in base 2
PADDED = tl.constexpr(-1e9)  # AF2's logit of a padded key


@dataclass(frozen=True)
class Tile:
    """One program's share: queries x keys of a row and head (`tl.dot` wants 16 or more of each), and how it runs."""

    queries: int
    keys: int
    warps: int
    stages: int


def forward_tile(n: int, d: int, dtype: torch.dtype) -> Tile:
    """Measured on an NVIDIA H200; see docs/performance.md."""
    if dtype == torch.float32:
        return Tile(64, 32, 4, 2)
    if d > 32:
        return Tile(64, 64, 4, 2)
    return Tile(64, 64, 4, 3)


def precision_of(dtype: torch.dtype) -> str:
    """What the matrix products of this storage run in, as `tl.dot` calls it."""
    return "ieee" if dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest" else "tf32"


@triton.jit
def count_leading_keys(mask, lead, n, mask_r, mask_n, BLOCK: tl.constexpr):
    """lead [r]: how many keys of a row come before its first padded one; -1: the row has no real key."""
    row = tl.program_id(0).to(tl.int64)
    first = n
    some = 0
    for start in range(0, n, BLOCK):
        key = start + tl.arange(0, BLOCK)
        # [BLOCK]
        real = tl.load(mask + row * mask_r + key.to(tl.int64) * mask_n, mask=key < n, other=0.0) != 0
        first = tl.minimum(first, tl.min(tl.where(real, n, key)))
        some = tl.maximum(some, tl.max(real.to(tl.int32)))
    tl.store(lead + row, tl.where(some > 0, first, -1))


@triton.jit
def padding(mask, row, key, n, mask_r, mask_n, dead, HAS_MASK: tl.constexpr):
    """Which keys are real, and the logit of those that are not ([K], [K]).

    A row without real keys is dead: its logits are all 0, which is the uniform soft-max of -1e9 + logits in fp32, and, unlike -1e9, leaves
    a log-sum-exp that the backward can use.
    """
    real = key < n
    fill = tl.where(real, tl.where(dead, 0.0, PADDED), float("-inf"))
    if HAS_MASK:
        real = tl.load(mask + row * mask_r + key.to(tl.int64) * mask_n, mask=real, other=0.0) != 0
    return real, fill


@triton.jit
def unmasked_keys(lead, row, n, K: tl.constexpr, HAS_MASK: tl.constexpr):
    """Keys that need no mask, in whole tiles; whether the row is dead."""
    count = n
    if HAS_MASK:
        count = tl.load(lead + row)
    return tl.maximum(count, 0) // K * K, count < 0


@triton.jit
def forward_step(
    m, l, acc, q, k, v, bias, k_n, v_n, start, n, mask, row, mask_r, mask_n, dead,
    scale, DIM: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of keys. k [D, K], v [K, D] and bias [Q, K] are pointers to the row's first tile."""
    D: tl.constexpr = acc.shape[1]
    K: tl.constexpr = v.shape[0]
    key = start + tl.arange(0, K)
    channel = tl.arange(0, D) < DIM
    at = start.to(tl.int64)
    # [D, K], [K, D]
    if MASKED:
        b_k = tl.load(k + at * k_n, mask=channel[:, None] & (key < n)[None, :], other=0.0)
        b_v = tl.load(v + at * v_n, mask=channel[None, :] & (key < n)[:, None], other=0.0)
    elif D > DIM:
        b_k = tl.load(k + at * k_n, mask=channel[:, None], other=0.0)
        b_v = tl.load(v + at * v_n, mask=channel[None, :], other=0.0)
    else:
        b_k = tl.load(k + at * k_n)
        b_v = tl.load(v + at * v_n)
    # [Q, K]
    s = tl.dot(q, b_k, input_precision=PRECISION)
    if HAS_BIAS:
        if MASKED:
            b_bias = tl.load(bias + at, mask=(key < n)[None, :], other=0.0)
        else:
            b_bias = tl.load(bias + at)
        s = s * scale + b_bias.to(tl.float32)
        base2 = LOG2E
    else:
        base2 = scale * LOG2E
    if MASKED:
        real, fill = padding(mask, row, key, n, mask_r, mask_n, dead, HAS_MASK)
        s = tl.where(real[None, :], s, fill[None, :])
    larger = tl.maximum(m, tl.max(s, 1) * base2)
    p = tl.exp2(s * base2 - larger[:, None])
    shrink = tl.exp2(m - larger)
    l = l * shrink + tl.sum(p, 1)
    acc = tl.dot(p.to(b_v.dtype), b_v, acc * shrink[:, None], input_precision=PRECISION)
    return larger, l, acc


@triton.jit
def forward_kernel(
    q, k, v, gate, bias, mask, lead, o, lse,
    rows, n, q_r, q_n, k_r, k_n, v_r, v_n, gate_r, gate_n, bias_n, mask_r, mask_n, scale,
    Q_H: tl.constexpr, K_H: tl.constexpr, V_H: tl.constexpr, GATE_H: tl.constexpr,
    H: tl.constexpr, DIM: tl.constexpr, D: tl.constexpr, Q: tl.constexpr, K: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, HAS_LSE: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of queries of one row and head. Tiles of a row run together (they share keys), heads apart (they share no bias)."""
    tiles = tl.cdiv(n, Q)
    start = tl.program_id(0) % tiles * Q
    row = (tl.program_id(0) // tiles % rows).to(tl.int64)
    head = tl.program_id(0) // tiles // rows
    at = start.to(tl.int64)
    token = tl.arange(0, Q)
    key = tl.arange(0, K)
    channel = tl.arange(0, D)
    inside = (start + token < n)[:, None] & (channel < DIM)[None, :]
    # [Q, D]
    b_q = tl.load(q + row * q_r + at * q_n + head * Q_H + token[:, None] * q_n + channel[None, :], mask=inside, other=0.0)
    # pointers [D, K], [K, D], [Q, K]; queries beyond n read the last query's bias
    k = k + row * k_r + head * K_H + key[None, :] * k_n + channel[:, None]
    v = v + row * v_r + head * V_H + key[:, None] * v_n + channel[None, :]
    if HAS_BIAS:
        bias = bias + (at * H + head) * bias_n + tl.minimum(token, n - 1 - start)[:, None] * (H * bias_n) + key[None, :]
    m = tl.full([Q], float("-inf"), tl.float32)
    l = tl.zeros([Q], tl.float32)
    acc = tl.zeros([Q, D], tl.float32)
    split, dead = unmasked_keys(lead, row, n, K, HAS_MASK)
    # A loop that may run zero times makes ptxas wait after every single matrix instruction: hence the ifs.
    if split > 0:
        for i in range(0, split, K):
            m, l, acc = forward_step(
                m, l, acc, b_q, k, v, bias, k_n, v_n, i, n, mask, row, mask_r, mask_n, dead,
                scale, DIM, HAS_BIAS, HAS_MASK, False, PRECISION,
            )  # fmt: skip
    if HAS_MASK or not EVEN:
        if split < n:
            for i in range(split, n, K):
                m, l, acc = forward_step(
                    m, l, acc, b_q, k, v, bias, k_n, v_n, i, n, mask, row, mask_r, mask_n, dead,
                    scale, DIM, HAS_BIAS, HAS_MASK, True, PRECISION,
                )  # fmt: skip
    # [Q, D]
    b_gate = tl.load(gate + row * gate_r + at * gate_n + head * GATE_H + token[:, None] * gate_n + channel[None, :], mask=inside, other=0.0)
    acc = acc / (l[:, None] * (1 + tl.exp2(-LOG2E * b_gate.to(tl.float32))))
    o = o + ((row * n + at) * H + head) * DIM + token[:, None] * (H * DIM) + channel[None, :]
    tl.store(o, acc.to(o.dtype.element_ty), mask=inside)
    if HAS_LSE:
        tl.store(lse + (row * H + head) * n + start + token, m + tl.log2(l), mask=start + token < n)
