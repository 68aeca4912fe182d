"""Pair-biased gated attention in Triton: no soft-max in memory, and q, k, v and gate read where the projection left them.

Soft-max in tiles after Rabe & Staats (2021) and FlashAttention (Dao et al., 2022); the mathematics is AF2 Suppl. Alg. 7,
lines 5-6 (Alg. 8 without the bias). Statistics and accumulators are fp32 whatever the storage. The backward is
triton_attention_backward.py; hopper_attention.py has a forward of its own for long rows in bf16 on NVIDIA Hopper.

Shapes: r rows, n queries and keys, h heads, d head dim. In kernels: Q, K queries and keys of a tile, D the head dim
padded for a matrix product. Strides are named for their tensor and axis: q_r, q_n, Q_H.
"""

import functools
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.grids import cdiv, power_of_2

TOLERANCE = {"fp32": 1e-5, "tf32": 1e-3, "bf16": 1e-2, "fp16": 2e-3}
"""||x - x64|| / ||x64|| of the output and of every gradient x, by precision; x64 in fp64 from the same inputs."""

X3_ROOM = 182016
"""Bytes of on-chip memory that the neediest of foldfit's kernels takes in "tf32x3" (compiled by Triton 3.6 for compute capability 9); an
H100 or H200 has 227 KiB, an A100 163, a GeForce 99."""

LOG2E = tl.constexpr(1.4426950408889634)  # exp2 is the hardware's own: soft-max in base 2
PADDED = tl.constexpr(-1e9)  # AF2's logit of a padded key
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)  # TRITON_INTERPRET=1


@dataclass(frozen=True)
class Tile:
    """One program's share, queries x keys of a row and head, and how it runs."""

    queries: int
    keys: int
    warps: int
    stages: int
    """Of the loads' pipeline: one tile more than are in flight."""
    registers: int | None = None
    """At most so many a thread, that more programs fit a multiprocessor; None: as many as it takes."""
    ahead: bool = False
    """Forward only: start the next tile's q k before this one's exponentials."""

    @property
    def options(self) -> dict[str, int | None]:
        return {"num_warps": self.warps, "num_stages": self.stages, "maxnreg": self.registers}


def forward_tile(n: int, d: int, dtype: torch.dtype) -> Tile:
    """Measured for d = 32: 16 bits on an NVIDIA H200 (Triton 3.6, 2026-11-23), "tf32x3" among twelve on an H100 (2026-11-27); the
    others are guesses that run."""
    if dtype == torch.float32:
        return Tile(128, 32, 8, 2, 128) if d <= 32 and precision_of(dtype) == "tf32x3" else Tile(64, 32, 4, 2)
    return Tile(128, 32, 4, 3, 128) if d <= 32 else Tile(64, 64, 4, 2)


def precision_of(dtype: torch.dtype) -> str:
    """What `tl.dot` runs this storage in; it reads the word for fp32 only."""
    return whole_fp32() if dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest" else "tf32"


@functools.cache
def whole_fp32() -> str:
    """fp32 where tf32 would lose digits: "tf32x3", three products of the operands' first and last digits on the matrix units, which lose
    2**-21 of them and want twice the room; where that is missing "ieee", without matrix units."""
    if not torch.version.cuda or not torch.cuda.is_available():
        return "ieee"
    return "tf32x3" if torch.cuda.get_device_properties().shared_memory_per_block_optin >= X3_ROOM else "ieee"


def padded_dim(d: int) -> int:
    """The head dim as a matrix product wants it."""
    return max(16, power_of_2(d))


@triton.jit
def nearest_tf32(x):
    """The matrix units drop the last 13 bits of an fp32, which shrinks every operand: round to nearest first."""
    return ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def dot(a, b, c, PRECISION: tl.constexpr):
    """c + a b in fp32."""
    if a.dtype == tl.float32 and PRECISION == "tf32":
        a = nearest_tf32(a)
        b = nearest_tf32(b)
    if INTERPRETED and a.dtype == tl.bfloat16:  # Triton's interpreter would multiply the bit patterns
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, c, input_precision=PRECISION)


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

    A row without real keys is dead: its logits are all 0, which is the uniform soft-max of -1e9 + logits in fp32, and,
    unlike -1e9, leaves a log-sum-exp that the backward can use.
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
def load_tile(x, x_n, at, inside, channel, MASKED: tl.constexpr, WIDER: tl.constexpr):
    """A tile of keys or values from key `at`; x points to the first. Masks cost time: only where something may be missing."""
    x += at * x_n
    if MASKED:
        return tl.load(x, mask=inside & channel, other=0.0)
    elif WIDER:
        return tl.load(x, mask=channel, other=0.0)
    else:
        return tl.load(x)


@triton.jit
def forward_step(
    m, sums, acc, s, b_bias, b_v, start, n, mask, row, mask_r, mask_n, dead, scale,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, MASKED: tl.constexpr, ONLINE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of keys, from s = q k and the bias [Q, K] and v [K, D]; ONLINE: with a running maximum."""
    K: tl.constexpr = s.shape[1]
    # [Q, K], in base 2
    s *= scale * LOG2E
    if HAS_BIAS:
        s += b_bias.to(tl.float32) * LOG2E
    if MASKED:
        real, fill = padding(mask, row, start + tl.arange(0, K), n, mask_r, mask_n, dead, HAS_MASK)
        s = tl.where(real[None, :], s, fill[None, :])
    if ONLINE:
        larger = tl.maximum(m, tl.max(s, 1))
        shrink = tl.exp2(m - larger)[:, None]
        m = larger
        sums *= shrink
        acc *= shrink
        s -= m[:, None]
    p = tl.exp2(s)
    if sums.shape[1] == 1:
        sums += tl.sum(p, 1)[:, None]
    else:  # the matrix units have time to spare
        sums = dot(p.to(b_v.dtype), tl.full([K, sums.shape[1]], 1.0, b_v.dtype), sums, PRECISION)
    acc = dot(p.to(b_v.dtype), b_v, acc, PRECISION)
    return m, sums, acc


@triton.jit
def forward_row(
    q, k, v, bias, k_n, v_n, n, mask, row, mask_r, mask_n, split, dead, scale,
    K: tl.constexpr, DIM: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, EVEN: tl.constexpr,
    ONLINE: tl.constexpr, AHEAD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All keys; k [D, K], v [K, D] and bias [Q, K] point to the first tile.

    Returns the maximum [Q] that weights are relative to, their sum in every column of [Q, 1 or 16], and sum p v [Q, D].
    """
    Q: tl.constexpr = q.shape[0]
    D: tl.constexpr = q.shape[1]
    m = tl.full([Q], float("-inf") if ONLINE else 0.0, tl.float32)
    sums = tl.zeros([Q, 1 if q.dtype == tl.float32 else 16], tl.float32)
    acc = tl.zeros([Q, D], tl.float32)
    key = tl.arange(0, K)
    channel = tl.arange(0, D) < DIM
    # A loop that may run zero times makes ptxas wait after every single matrix instruction: hence the ifs.
    if split > 0:
        if AHEAD:
            b_k = load_tile(k, k_n, 0, key[None, :] < n, channel[:, None], False, D > DIM)
            s = dot(q, b_k, None, PRECISION)
        for i in range(0, split, K):
            at = tl.cast(i, tl.int64)
            of_k = at
            if AHEAD:  # the last tile's products are made twice
                of_k = tl.cast(tl.minimum(i + K, split - K), tl.int64)
            b_k = load_tile(k, k_n, of_k, key[None, :] < n, channel[:, None], False, D > DIM)
            b_v = load_tile(v, v_n, at, key[:, None] < n, channel[None, :], False, D > DIM)
            b_bias = b_v  # there is none
            if HAS_BIAS:
                b_bias = tl.load(bias + at)
            product = dot(q, b_k, None, PRECISION)
            if not AHEAD:
                s = product
            m, sums, acc = forward_step(
                m, sums, acc, s, b_bias, b_v, i, n, mask, row, mask_r, mask_n, dead, scale,
                HAS_BIAS, HAS_MASK, False, ONLINE, PRECISION,
            )  # fmt: skip
            if AHEAD:
                s = product
    if HAS_MASK or not EVEN:
        if split < n:
            for i in range(split, n, K):
                at = tl.cast(i, tl.int64)
                b_k = load_tile(k, k_n, at, i + key[None, :] < n, channel[:, None], True, D > DIM)
                b_v = load_tile(v, v_n, at, i + key[:, None] < n, channel[None, :], True, D > DIM)
                b_bias = b_v
                if HAS_BIAS:
                    b_bias = tl.load(bias + at, mask=i + key[None, :] < n, other=0.0)
                product = dot(q, b_k, None, PRECISION)
                m, sums, acc = forward_step(
                    m, sums, acc, product, b_bias, b_v, i, n, mask, row, mask_r, mask_n, dead, scale,
                    HAS_BIAS, HAS_MASK, True, ONLINE, PRECISION,
                )  # fmt: skip
    return m, sums, acc


@triton.jit
def forward_kernel(
    q, k, v, gate, bias, mask, lead, o, lse,
    rows, n, q_r, q_n, k_r, k_n, v_r, v_n, gate_r, gate_n, bias_n, mask_r, mask_n, scale,
    Q_H: tl.constexpr, K_H: tl.constexpr, V_H: tl.constexpr, GATE_H: tl.constexpr,
    H: tl.constexpr, DIM: tl.constexpr, D: tl.constexpr, Q: tl.constexpr, K: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, HAS_LSE: tl.constexpr, EVEN: tl.constexpr,
    AHEAD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of queries of one row and head. A row's tiles run together (they share keys), heads apart (they share no bias).

    fp32 and bf16 hold exp(40) and exp(-40) as well as 1, so weights are first summed as they are, without the running
    maximum, which saves a quarter of the instructions. Their sum says whether that was safe: inside 2**+-60 nothing has
    overflown, and what has underflown is below rounding. Outside, the tile is run again with the maximum. fp16 has too
    few exponents for that.
    """
    tiles = tl.cdiv(n, Q)
    start = tl.program_id(0) % tiles * Q
    row = (tl.program_id(0) // tiles % rows).to(tl.int64)
    head = tl.program_id(0) // tiles // rows
    at = tl.cast(start, tl.int64)
    token = tl.arange(0, Q)
    key = tl.arange(0, K)
    channel = tl.arange(0, D)
    inside = (start + token < n)[:, None] & (channel < DIM)[None, :]
    # [Q, D]
    q = q + row * q_r + at * q_n + head * Q_H + token[:, None] * q_n + channel[None, :]
    b_q = tl.load(q, mask=inside, other=0.0)
    # pointers [D, K], [K, D], [Q, K]; queries beyond n read the last query's bias
    k = k + row * k_r + head * K_H + key[None, :] * k_n + channel[:, None]
    v = v + row * v_r + head * V_H + key[:, None] * v_n + channel[None, :]
    if HAS_BIAS:
        query = tl.minimum(token, n - 1 - start)
        bias = bias + (at * H + head) * bias_n + query[:, None] * (H * bias_n) + key[None, :]
    split, dead = unmasked_keys(lead, row, n, K, HAS_MASK)
    ONLINE: tl.constexpr = b_q.dtype == tl.float16
    m, sums, acc = forward_row(
        b_q, k, v, bias, k_n, v_n, n, mask, row, mask_r, mask_n, split, dead, scale,
        K, DIM, HAS_BIAS, HAS_MASK, EVEN, ONLINE, AHEAD, PRECISION,
    )  # fmt: skip
    if not ONLINE:
        if not ((tl.max(sums) < 1152921504606846976.0) & (tl.min(sums) > 8.673617379884035e-19)):  # NaN comes here too
            m, sums, acc = forward_row(
                b_q, k, v, bias, k_n, v_n, n, mask, row, mask_r, mask_n, split, dead, scale,
                K, DIM, HAS_BIAS, HAS_MASK, EVEN, True, AHEAD, PRECISION,
            )  # fmt: skip
    total = tl.max(sums, 1)
    # [Q, D]
    gate = gate + row * gate_r + at * gate_n + head * GATE_H + token[:, None] * gate_n + channel[None, :]
    b_gate = tl.load(gate, mask=inside, other=0.0).to(tl.float32)
    acc = acc / (total[:, None] * (1 + tl.exp2(b_gate * -LOG2E)))
    o = o + ((row * n + at) * H + head) * DIM + token[:, None] * (H * DIM) + channel[None, :]
    tl.store(o, acc.to(o.dtype.element_ty), mask=inside)
    if HAS_LSE:
        tl.store(lse + (row * H + head) * n + start + token, m + tl.log2(total), mask=start + token < n)


def check(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor | None, mask: Tensor | None) -> None:
    """NotImplementedError for what these kernels cannot, ValueError for shapes that fit nothing."""
    r, n, h, d = q.shape
    for name, x in {"q": q, "k": k, "v": v, "gate": gate}.items():
        if x.shape != q.shape or x.dtype != q.dtype:
            raise ValueError(f"{name} must be as q, {list(q.shape)} {q.dtype}. Got {list(x.shape)} {x.dtype}.")
        if x.stride(3) != 1 or max(x.stride(1), x.stride(2)) * 128 >= 2**31:
            raise NotImplementedError(f"{name} needs a contiguous last dim, token strides < 2**24. Got {x.stride()}.")
    if bias is not None and (bias.shape != (n, h, n) or bias.dtype != q.dtype):
        raise ValueError(f"bias must be {[n, h, n]} {q.dtype}. Got {list(bias.shape)} {bias.dtype}.")
    if mask is not None and mask.shape != (r, n):
        raise ValueError(f"mask must be {[r, n]}. Got {list(mask.shape)}.")
    if q.dtype not in (torch.float32, torch.bfloat16, torch.float16) or not 8 <= d <= 64:
        raise NotImplementedError(f"fp32, bf16 or fp16 with a head dim of 8 to 64. Got {q.dtype}, {d}.")
    if r * h * n >= 2**31 or h * n * 128 >= 2**31:
        raise NotImplementedError(f"{r} rows of {n} tokens and {h} heads are more than a grid holds. Use fewer rows.")


def aligned(bias: Tensor) -> Tensor:
    """bias [..., n] with a row stride that 16-byte loads can use; a copy where it has none."""
    *lead, n = bias.shape
    if n % 16 == 0 and bias.is_contiguous():
        return bias
    out = bias.new_empty(*lead, cdiv(n, 16) * 16)[..., :n]
    return out.copy_(bias)


def on_hopper(q: Tensor) -> bool:
    """Whether this is compute capability 9, for which hopper_attention.py has a kernel; its `fits` says for which tensors."""
    return q.is_cuda and torch.cuda.get_device_capability(q.device)[0] == 9


def leading_keys(mask: Tensor | None) -> Tensor | None:
    """mask [r, n] -> int32 [r]; see the kernel."""
    if mask is None:
        return None
    r, n = mask.shape
    lead = torch.empty(r, dtype=torch.int32, device=mask.device)
    block = min(1024, power_of_2(n))
    count_leading_keys[(r,)](mask, lead, n, mask.stride(0), mask.stride(1), block)
    return lead


def attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    lead: Tensor | None = None,
    keep: bool = False,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor | None]:
    """As `attention`, unchecked and without autograd; lead: `leading_keys(mask)`.

    Returns o [r, n, h, d] and, to keep for the backward, the base-2 log-sum-exp [r, h, n] in fp32.
    """
    r, n, h, d = q.shape
    lead = leading_keys(mask) if lead is None else lead
    if tile is None and on_hopper(q):
        from foldfit.ops import hopper_attention

        if hopper_attention.fits(q, k, v):
            return hopper_attention.attention_forward(q, k, v, gate, bias, mask, lead, keep)
    tile = tile or forward_tile(n, d, q.dtype)
    o = torch.empty(r, n, h, d, dtype=q.dtype, device=q.device)
    lse = torch.empty(r, h, n, dtype=torch.float32, device=q.device) if keep else None
    bias = None if bias is None else aligned(bias)
    forward_kernel[(cdiv(n, tile.queries) * r * h,)](
        q, k, v, gate, bias, mask, lead, o, lse, r, n,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1), gate.stride(0), gate.stride(1),
        0 if bias is None else bias.stride(1), *((0, 0) if mask is None else mask.stride()), d**-0.5,
        Q_H=q.stride(2), K_H=k.stride(2), V_H=v.stride(2), GATE_H=gate.stride(2), H=h, DIM=d, D=padded_dim(d),
        Q=tile.queries, K=tile.keys, HAS_BIAS=bias is not None, HAS_MASK=mask is not None, HAS_LSE=keep,
        EVEN=n % tile.keys == 0, AHEAD=tile.ahead, PRECISION=precision_of(q.dtype), **tile.options,
    )  # fmt: skip
    return o, lse


class Attention(torch.autograd.Function):
    """Keeps q, k, v, gate, bias, mask and o (which the next projection keeps too), 4 bytes a query and head, 4 a row."""

    @staticmethod
    def forward(ctx, q, k, v, gate, bias, mask):
        lead = leading_keys(mask)
        o, lse = attention_forward(q, k, v, gate, bias, mask, lead, keep=True)
        ctx.save_for_backward(q, k, v, gate, bias, mask, lead, o, lse)
        return o

    @staticmethod
    def backward(ctx, do):
        from foldfit.ops.triton_attention_backward import attention_backward  # it imports this module

        grads, dbias = attention_backward(do, *ctx.saved_tensors, want_bias=ctx.needs_input_grad[4])
        return *grads.unbind(2), dbias, None


def attention(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor | None, mask: Tensor | None) -> Tensor:
    """sigmoid(gate) * soft-max(q k / sqrt(d) + bias + 1e9 (mask - 1)) v.

    q, k, v, gate [r, n, h, d] with any strides but a contiguous last dim, q not scaled, gate before its sigmoid; bias
    [query, h, key] of the same dtype, for all rows, or None; mask [r, n], 1 a key, 0 padding, or None. Returns o
    [r, n, h, d], contiguous. fp32 runs in tf32 unless `torch.get_float32_matmul_precision()` is "highest".
    Errors: see `check`.
    """
    check(q, k, v, gate, bias, mask)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, gate, bias)):
        return Attention.apply(q, k, v, gate, bias, mask)
    return attention_forward(q, k, v, gate, bias, mask)[0]
