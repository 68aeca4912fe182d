"""The backward of triton_attention.py, after FlashAttention (Dao et al., 2022): the soft-max is recomputed from its log-sum-exp.

Four kernels, no atomics, so that runs repeat to the bit: `prepare` (triton_attention_gate.py), one that owns keys (dk, dv), one that
owns logits over all rows (dbias) and one that owns queries (dq). A logit costs 18 d FLOPs and three exponentials. Fusing
two of the three would need sums across programs: atomics, or partial sums of the size of dq for every tile. One program for
all of a row and head, which sums dq in shared memory, does with 10 d FLOPs and one exponential what dkv and dq need 14 d and two
for, and took as long (Gluon, an NVIDIA H100, 512 rows of 384 tokens, 8 heads: 1.04 ms and 1.03 ms): it leaves too few warps.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.grids import cdiv
from foldfit.ops.triton_attention import LOG2E, Tile, aligned, dot, padded_dim, padding, precision_of, unmasked_keys
from foldfit.ops.triton_attention_gate import prepare

WAVE = 396  # programs of dbias_kernel that an H200 runs at once, three a multiprocessor


def row_groups(r: int, owners: int) -> int:
    """How many partial sums over rows dbias is made of: the fewest that nearly fill the last wave of programs, 32 rows or more in each."""
    counts = range(1, min(16, max(1, r // 32)) + 1)

    def filled(count: int) -> float:
        return owners * count / (cdiv(owners * count, WAVE) * WAVE)

    return next((count for count in counts if filled(count) > 0.85), max(counts, key=filled))


@dataclass(frozen=True)
class Tiles:
    """One for each of the three large kernels."""

    dkv: Tile
    dbias: Tile
    dq: Tile


def backward_tiles(n: int, d: int, dtype: torch.dtype) -> Tiles:
    """Measured on an NVIDIA H200 (Triton 3.6, 2026-11-23) for 16 bits and d = 32; the others are guesses that run."""
    if dtype == torch.float32:
        return Tiles(Tile(32, 32, 4, 2), Tile(32, 32, 4, 2), Tile(32, 32, 4, 2))
    if d > 32:
        return Tiles(Tile(32, 64, 4, 2), Tile(64, 64, 4, 2), Tile(64, 64, 4, 2))
    return Tiles(Tile(32, 64, 4, 3, 128), Tile(64, 64, 4, 3, 168), Tile(64, 64, 4, 3, 128))


@triton.jit
def weights(s, bias, lse, real, fill, scale, HAS_BIAS: tl.constexpr, MASKED: tl.constexpr):
    """Soft-max weights from products s, with the bias, the log-sum-exp and the padding already shaped to broadcast."""
    if HAS_BIAS:
        s = s * scale + bias.to(tl.float32)
        base2 = LOG2E
    else:
        base2 = scale * LOG2E
    if MASKED:
        s = tl.where(real, s, fill)
    return tl.exp2(s * base2 - lse)


@triton.jit
def dkv_loop(
    dk, dv, b_k, b_v, q, du, bias, lse, delta, real, fill, n, q_n, scale,
    OUT_N: tl.constexpr, DIM: tl.constexpr, Q: tl.constexpr,
    HAS_BIAS: tl.constexpr, MASKED: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All queries against one tile of keys. q [D, Q], du [Q, D], bias [K, Q] are pointers to the first queries."""
    D: tl.constexpr = b_k.shape[1]
    channel = tl.arange(0, D) < DIM
    tl.assume(n > 0)  # a loop that may run zero times makes ptxas wait after every single matrix instruction
    for start in range(0, n, Q):
        token = start + tl.arange(0, Q)
        at = tl.cast(start, tl.int64)
        # [D, Q], [Q, D], [Q], [Q], [K, Q]; a query beyond n has weight exp2(-inf)
        if EVEN and D == DIM:
            b_q = tl.load(q + at * q_n)
            b_du = tl.load(du + at * OUT_N)
            b_lse = tl.load(lse + token)
            b_delta = tl.load(delta + token)
        else:
            b_q = tl.load(q + at * q_n, mask=(token < n)[None, :] & channel[:, None], other=0.0)
            b_du = tl.load(du + at * OUT_N, mask=(token < n)[:, None] & channel[None, :], other=0.0)
            b_lse = tl.load(lse + token, mask=token < n, other=float("inf"))
            b_delta = tl.load(delta + token, mask=token < n, other=0.0)
        b_bias = 0.0
        if HAS_BIAS:
            if EVEN:
                b_bias = tl.load(bias + at)
            else:
                b_bias = tl.load(bias + at, mask=(token < n)[None, :], other=0.0)
        # [K, Q]
        s = dot(b_k, b_q, None, PRECISION)
        dp = dot(b_v, tl.trans(b_du), None, PRECISION)
        p = weights(s, b_bias, b_lse[None, :], real[:, None], fill[:, None], scale, HAS_BIAS, MASKED)
        dv = dot(p.to(b_du.dtype), b_du, dv, PRECISION)
        ds = p * (dp - b_delta[None, :])
        dk = dot(ds.to(b_q.dtype), tl.trans(b_q), dk, PRECISION)
    return dk, dv


@triton.jit
def dkv_kernel(
    q, k, v, bias, mask, lead, du, lse, delta, dk, dv,
    rows, n, q_r, q_n, k_r, k_n, v_r, v_n, bias_n, mask_r, mask_n, scale,
    Q_H: tl.constexpr, K_H: tl.constexpr, V_H: tl.constexpr, OUT_N: tl.constexpr,
    H: tl.constexpr, DIM: tl.constexpr, D: tl.constexpr, Q: tl.constexpr, K: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of keys of one row and head, over all queries; everything key by query, so that p and ds are left operands where they lie.

    bias [h, k, q], transposed once for all rows.
    """
    tiles = tl.cdiv(n, K)
    start = tl.program_id(0) % tiles * K
    row = (tl.program_id(0) // tiles % rows).to(tl.int64)
    head = tl.program_id(0) // tiles // rows
    at = tl.cast(start, tl.int64)
    token = tl.arange(0, Q)
    key = tl.arange(0, K)
    channel = tl.arange(0, D)
    inside = (start + key < n)[:, None] & (channel < DIM)[None, :]
    # [K, D]
    b_k = tl.load(k + row * k_r + at * k_n + head * K_H + key[:, None] * k_n + channel[None, :], mask=inside, other=0.0)
    b_v = tl.load(v + row * v_r + at * v_n + head * V_H + key[:, None] * v_n + channel[None, :], mask=inside, other=0.0)
    # pointers [D, Q], [Q, D], [K, Q]; keys beyond n read the last key's bias
    q = q + row * q_r + head * Q_H + token[None, :] * q_n + channel[:, None]
    du = du + row * n * OUT_N + head * DIM + token[:, None] * OUT_N + channel[None, :]
    if HAS_BIAS:
        bias = bias + (head * n + at) * bias_n + tl.minimum(key, n - 1 - start)[:, None] * bias_n + token[None, :]
    lse = lse + (row * H + head) * n
    delta = delta + (row * H + head) * n
    acc_k = tl.zeros([K, D], tl.float32)
    acc_v = tl.zeros([K, D], tl.float32)
    split, dead = unmasked_keys(lead, row, n, K, HAS_MASK)
    real, fill = padding(mask, row, start + key, n, mask_r, mask_n, dead, HAS_MASK)
    if start < split:
        acc_k, acc_v = dkv_loop(
            acc_k, acc_v, b_k, b_v, q, du, bias, lse, delta, real, fill, n, q_n, scale, OUT_N, DIM, Q, HAS_BIAS, False, EVEN, PRECISION
        )
    else:
        acc_k, acc_v = dkv_loop(
            acc_k, acc_v, b_k, b_v, q, du, bias, lse, delta, real, fill, n, q_n, scale, OUT_N, DIM, Q, HAS_BIAS, True, EVEN, PRECISION
        )
    # [K, D]
    out = (row * n + at) * OUT_N + head * DIM + key[:, None] * OUT_N + channel[None, :]
    tl.store(dk + out, (acc_k * scale).to(dk.dtype.element_ty), mask=inside)
    tl.store(dv + out, acc_v.to(dv.dtype.element_ty), mask=inside)


@triton.jit
def dbias_kernel(
    q, k, v, bias, mask, lead, du, lse, delta, dbias,
    rows, group, n, q_r, q_n, k_r, k_n, v_r, v_n, bias_n, mask_r, mask_n, scale,
    Q_H: tl.constexpr, K_H: tl.constexpr, V_H: tl.constexpr, OUT_N: tl.constexpr,
    H: tl.constexpr, DIM: tl.constexpr, D: tl.constexpr, Q: tl.constexpr, K: tl.constexpr,
    HAS_MASK: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of logits of one head: its bias and its gradient stay in registers over a group of rows. dbias [groups, n, h, n]."""
    tiles = tl.cdiv(n, K)
    pid = tl.program_id(0)
    start_k = pid % tiles * K
    start_q = pid // tiles % tl.cdiv(n, Q) * Q
    pid = pid // tiles // tl.cdiv(n, Q)
    head = pid % H
    first = pid // H * group
    token = tl.arange(0, Q)
    key = tl.arange(0, K)
    channel = tl.arange(0, D)
    in_q = start_q + token < n
    in_k = start_k + key < n
    # pointers [Q, D], [D, K], [D, K], [Q, D]
    at_q = tl.cast(start_q, tl.int64)
    at_k = tl.cast(start_k, tl.int64)
    q = q + at_q * q_n + head * Q_H + token[:, None] * q_n + channel[None, :]
    k = k + at_k * k_n + head * K_H + key[None, :] * k_n + channel[:, None]
    v = v + at_k * v_n + head * V_H + key[None, :] * v_n + channel[:, None]
    du = du + at_q * OUT_N + head * DIM + token[:, None] * OUT_N + channel[None, :]
    # [Q, K]
    here = in_q[:, None] & in_k[None, :]
    bias = bias + (at_q * H + head) * bias_n + at_k + token[:, None] * (H * bias_n) + key[None, :]
    b_bias = tl.load(bias, mask=here, other=0.0).to(tl.float32) * LOG2E
    acc = tl.zeros([Q, K], tl.float32)
    last = tl.minimum(first + group, rows)
    tl.assume(first < last)
    for i in range(first, last):
        row = tl.cast(i, tl.int64)
        statistics = (row * H + head) * n + start_q + token
        # [Q, D], [D, K], [D, K], [Q, D], [Q], [Q]; a query beyond n has weight exp2(-inf)
        if EVEN and D == DIM:
            b_q = tl.load(q + row * q_r)
            b_k = tl.load(k + row * k_r)
            b_v = tl.load(v + row * v_r)
            b_du = tl.load(du + row * n * OUT_N)
            b_lse = tl.load(lse + statistics)
            b_delta = tl.load(delta + statistics)
        else:
            b_q = tl.load(q + row * q_r, mask=in_q[:, None] & (channel < DIM)[None, :], other=0.0)
            b_k = tl.load(k + row * k_r, mask=in_k[None, :] & (channel < DIM)[:, None], other=0.0)
            b_v = tl.load(v + row * v_r, mask=in_k[None, :] & (channel < DIM)[:, None], other=0.0)
            b_du = tl.load(du + row * n * OUT_N, mask=in_q[:, None] & (channel < DIM)[None, :], other=0.0)
            b_lse = tl.load(lse + statistics, mask=in_q, other=float("inf"))
            b_delta = tl.load(delta + statistics, mask=in_q, other=0.0)
        # [Q, K]
        s = dot(b_q, b_k, None, PRECISION)
        dp = dot(b_du, b_v, None, PRECISION)
        s = s * (scale * LOG2E) + b_bias
        if HAS_MASK:
            count = tl.load(lead + row)
            if start_k + K > count:
                real, fill = padding(mask, row, start_k + key, n, mask_r, mask_n, count < 0, True)
                s = tl.where(real[None, :], s, fill[None, :])
        acc += tl.exp2(s - b_lse[:, None]) * (dp - b_delta[:, None])
    out = ((pid // H).to(tl.int64) * n + at_q) * H + head
    tl.store(dbias + out * n + at_k + token[:, None] * (H * n) + key[None, :], acc.to(dbias.dtype.element_ty), mask=here)


@triton.jit
def dq_step(
    dq, b_q, b_du, b_lse, b_delta, k, v, bias, k_n, v_n, start, n, mask, row, mask_r, mask_n, dead,
    scale, DIM: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of keys. k, v [D, K] and bias [Q, K] are pointers to the row's first tile."""
    D: tl.constexpr = k.shape[0]
    K: tl.constexpr = k.shape[1]
    key = start + tl.arange(0, K)
    at = tl.cast(start, tl.int64)
    channel = tl.arange(0, D) < DIM
    # [D, K], [D, K], [Q, K]
    b_bias = 0.0
    if MASKED:
        b_k = tl.load(k + at * k_n, mask=channel[:, None] & (key < n)[None, :], other=0.0)
        b_v = tl.load(v + at * v_n, mask=channel[:, None] & (key < n)[None, :], other=0.0)
        if HAS_BIAS:
            b_bias = tl.load(bias + at, mask=(key < n)[None, :], other=0.0)
        real, fill = padding(mask, row, key, n, mask_r, mask_n, dead, HAS_MASK)
    else:
        if D > DIM:
            b_k = tl.load(k + at * k_n, mask=channel[:, None], other=0.0)
            b_v = tl.load(v + at * v_n, mask=channel[:, None], other=0.0)
        else:
            b_k = tl.load(k + at * k_n)
            b_v = tl.load(v + at * v_n)
        if HAS_BIAS:
            b_bias = tl.load(bias + at)
        real = key < n
        fill = b_lse
    # [Q, K]
    s = dot(b_q, b_k, None, PRECISION)
    dp = dot(b_du, b_v, None, PRECISION)
    p = weights(s, b_bias, b_lse[:, None], real[None, :], fill[None, :], scale, HAS_BIAS, MASKED)
    ds = p * (dp - b_delta[:, None])
    return dot(ds.to(b_k.dtype), tl.trans(b_k), dq, PRECISION)


@triton.jit
def dq_kernel(
    q, k, v, bias, mask, lead, lse, delta, dq,
    rows, n, q_r, q_n, k_r, k_n, v_r, v_n, bias_n, mask_r, mask_n, scale,
    Q_H: tl.constexpr, K_H: tl.constexpr, V_H: tl.constexpr, OUT_N: tl.constexpr,
    H: tl.constexpr, DIM: tl.constexpr, D: tl.constexpr, Q: tl.constexpr, K: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of queries of one row and head, over all keys. dq holds du on entry: a program reads and then overwrites its own tile."""
    tiles = tl.cdiv(n, Q)
    start = tl.program_id(0) % tiles * Q
    row = (tl.program_id(0) // tiles % rows).to(tl.int64)
    head = tl.program_id(0) // tiles // rows
    at = tl.cast(start, tl.int64)
    token = tl.arange(0, Q)
    key = tl.arange(0, K)
    channel = tl.arange(0, D)
    in_q = start + token < n
    inside = in_q[:, None] & (channel < DIM)[None, :]
    dq = dq + (row * n + at) * OUT_N + head * DIM + token[:, None] * OUT_N + channel[None, :]
    statistics = (row * H + head) * n + start + token
    # [Q, D], [Q, D], [Q], [Q]
    b_q = tl.load(q + row * q_r + at * q_n + head * Q_H + token[:, None] * q_n + channel[None, :], mask=inside, other=0.0)
    b_du = tl.load(dq, mask=inside, other=0.0)
    b_lse = tl.load(lse + statistics, mask=in_q, other=float("inf"))
    b_delta = tl.load(delta + statistics, mask=in_q, other=0.0)
    # pointers [D, K], [D, K], [Q, K]; queries beyond n read the last query's bias
    k = k + row * k_r + head * K_H + key[None, :] * k_n + channel[:, None]
    v = v + row * v_r + head * V_H + key[None, :] * v_n + channel[:, None]
    if HAS_BIAS:
        bias = bias + (at * H + head) * bias_n + tl.minimum(token, n - 1 - start)[:, None] * (H * bias_n) + key[None, :]
    acc = tl.zeros([Q, D], tl.float32)
    split, dead = unmasked_keys(lead, row, n, K, HAS_MASK)
    if split > 0:
        for i in range(0, split, K):
            acc = dq_step(
                acc, b_q, b_du, b_lse, b_delta, k, v, bias, k_n, v_n, i, n, mask, row, mask_r, mask_n, dead,
                scale, DIM, HAS_BIAS, HAS_MASK, False, PRECISION,
            )  # fmt: skip
    if HAS_MASK or not EVEN:
        if split < n:
            for i in range(split, n, K):
                acc = dq_step(
                    acc, b_q, b_du, b_lse, b_delta, k, v, bias, k_n, v_n, i, n, mask, row, mask_r, mask_n, dead,
                    scale, DIM, HAS_BIAS, HAS_MASK, True, PRECISION,
                )  # fmt: skip
    tl.store(dq, (acc * scale).to(dq.dtype.element_ty), mask=inside)


def attention_backward(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    lead: Tensor | None,
    o: Tensor,
    lse: Tensor,
    want_bias: bool = True,
    tiles: Tiles | None = None,
) -> tuple[Tensor, Tensor | None]:
    """do and o [r, n, h, d], lse [r, h, n], the forward's inputs -> gradients [r, n, 4, h, d] of q, k, v, gate; dbias [n, h, n]."""
    r, n, h, d = q.shape
    grads, delta = torch.empty(r, n, 4, h, d, dtype=q.dtype, device=q.device), torch.empty_like(lse)
    prepare(do.contiguous(), gate, o, grads, delta)
    return grads, differentiate(grads, delta, q, k, v, bias, mask, lead, lse, want_bias, tiles)


def differentiate(
    grads: Tensor,
    delta: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    lead: Tensor | None,
    lse: Tensor,
    want_bias: bool = True,
    tiles: Tiles | None = None,
) -> Tensor | None:
    """grads [r, n, 4, h, d] with du and dgate in its first and last part, and delta -> dq, dk and dv into the first three; dbias [n, h, n].

    Beside what it returns it allocates the bias twice where its rows are not aligned, once transposed, and, while dk and dv are not
    there yet, the row groups' partial dbias, at most half as large as q.
    """
    r, n, h, d = q.shape
    tiles = tiles or backward_tiles(n, d, q.dtype)
    dq, dk, dv, _ = grads.unbind(2)
    du = dq  # until dq_kernel overwrites it, tile by tile
    has_bias = bias is not None
    strides = q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1)
    mask_strides = (0, 0) if mask is None else mask.stride()
    common = {
        "Q_H": q.stride(2), "K_H": k.stride(2), "V_H": v.stride(2), "OUT_N": 4 * h * d, "H": h, "DIM": d, "D": padded_dim(d),
        "HAS_MASK": mask is not None, "PRECISION": precision_of(q.dtype),
    }  # fmt: skip

    dbias = None
    by_query = None if bias is None else aligned(bias)
    bias_n = 0 if by_query is None else by_query.stride(1)
    if has_bias and want_bias:
        tile = tiles.dbias
        owners = cdiv(n, tile.queries) * cdiv(n, tile.keys) * h
        fitting = max(1, r * d * q.element_size() // (8 * n) - 1)  # partial sums and their sum: half as large as q
        group = cdiv(r, min(fitting, row_groups(r, owners)))  # rows summed by one program
        groups = cdiv(r, group)
        partial = torch.empty(groups, n, h, n, dtype=q.dtype if groups == 1 else torch.float32, device=q.device)
        dbias_kernel[(owners * groups,)](
            q, k, v, by_query, mask, lead, du, lse, delta, partial, r, group, n, *strides, bias_n, *mask_strides, d**-0.5,
            **common, Q=tile.queries, K=tile.keys, EVEN=n % tile.queries == 0 and n % tile.keys == 0, **tile.options,
        )  # fmt: skip
        dbias = partial[0] if groups == 1 else partial.sum(0, dtype=torch.float32).to(q.dtype)
        del partial

    tile = tiles.dkv
    by_key = None if bias is None else aligned(bias.permute(1, 2, 0))
    dkv_kernel[(cdiv(n, tile.keys) * r * h,)](
        q, k, v, by_key, mask, lead, du, lse, delta, dk, dv, r, n, *strides, 0 if by_key is None else by_key.stride(1), *mask_strides,
        d**-0.5, **common, Q=tile.queries, K=tile.keys, HAS_BIAS=has_bias, EVEN=n % tile.queries == 0, **tile.options,
    )  # fmt: skip
    del by_key

    tile = tiles.dq
    dq_kernel[(cdiv(n, tile.queries) * r * h,)](
        q, k, v, by_query, mask, lead, lse, delta, dq, r, n, *strides, bias_n, *mask_strides, d**-0.5,
        **common, Q=tile.queries, K=tile.keys, HAS_BIAS=has_bias, EVEN=n % tile.keys == 0, **tile.options,
    )  # fmt: skip
    return dbias
