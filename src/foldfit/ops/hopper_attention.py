"""The forward of triton_attention.py for NVIDIA Hopper, in Triton's Gluon dialect: the same mathematics, tolerance and memory.

Groups of four warps each own M queries of one row and head and run free of each other, so that one's exponentials hide
behind another's matrix products (FlashAttention-3, Shah et al., 2024); one more warp fetches tiles ahead of them by TMA.
Rows of a program share each tile of the bias, which halves what has to come from the L2 cache, and programs stay, so that a
task's tiles are under way while the one before is written. Queries are scaled once and products accumulate on the bias,
scaled once for all rows into fp16 (three bits more than it comes with): a logit costs one conversion, one exponential,
one addition and half a rounding.

Shapes: as in triton_attention.py; M queries of a group, K keys of a tile, D head dim.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, mma_v2, tma, warpgroup_mma, warpgroup_mma_init, warpgroup_mma_wait
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from foldfit.ops.grids import cdiv, power_of_2

LOG2E = gl.constexpr(1.4426950408889634)
PADDED = gl.constexpr(-1e9)  # AF2's logit of a padded key
LARGEST = tl.constexpr(65504.0)  # fp16's

ROWS, PARTS, QUERIES, KEYS, STAGES, REGISTERS = 2, 2, 64, 64, 3, 112
"""Of a program: rows, groups of warps a row, queries of a group; keys of a tile, tiles under way; registers of a thread.

The best of 24 measured on an NVIDIA H100 (Triton 3.6, 2026-11-26).
"""
HEAD_DIM = 32
LEAST_N = 1024
"""Shorter rows leave too few tiles for the groups to take turns over: there the plain kernel is as fast, or faster."""

load_tile = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared  # its name after Triton 3.6, and until then


def fits(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether this kernel, once on Hopper, is for such tensors: bf16, this head dim, long rows, what TMA can address."""
    if q.dtype != torch.bfloat16 or q.shape[3] != HEAD_DIM or q.shape[1] < LEAST_N:
        return False
    return all(x.data_ptr() % 16 == 0 and all(x.stride(i) % 8 == 0 for i in range(3)) for x in (q, k, v))


@triton.jit
def scale_bias_kernel(bias, out, n, h, bias_q, bias_h, bias_k, out_n, BLOCK: tl.constexpr):
    """A query's and head's bias [n], times log2 e."""
    row = tl.program_id(0).to(tl.int64)
    bias += row // h * bias_q + row % h * bias_h
    for start in range(0, n, BLOCK):
        key = start + tl.arange(0, BLOCK)
        x = tl.load(bias + key.to(tl.int64) * bias_k, mask=key < n, other=0.0).to(tl.float32) * 1.4426950408889634
        tl.store(out + row * out_n + key, tl.minimum(tl.maximum(x, -LARGEST), LARGEST).to(tl.float16), mask=key < n)


def scaled_bias(bias: Tensor) -> Tensor:
    """bias [n, h, n] -> fp16, to base 2, rows aligned as TMA wants them."""
    n, h, _ = bias.shape
    out = torch.empty(n, h, cdiv(n, 16) * 16, dtype=torch.float16, device=bias.device)[..., :n]
    scale_bias_kernel[(n * h,)](bias, out, n, h, *bias.stride(), out.stride(1), BLOCK=min(1024, power_of_2(n)), num_warps=1)
    return out


@gluon.jit
def exp2(x):
    return gl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], gl.float32, True, 1)


@gluon.jit
def reciprocal(x):
    return gl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], gl.float32, True, 1)


@gluon.jit
def task_of(task, n, rows, Q: gl.constexpr, ROWS: gl.constexpr):
    """First query, first row, head: a row's queries run together (they share keys), heads apart (they share no bias)."""
    tiles = gl.cdiv(n, Q)
    groups = gl.cdiv(rows, ROWS)
    return task % tiles * Q, task // tiles % groups * ROWS, task // tiles // groups


@gluon.jit
def unmasked_keys(lead, row, n, K: gl.constexpr, HAS_MASK: gl.constexpr):
    """Keys of a row that need no mask, in whole tiles; whether the row is dead. As triton_attention.py's."""
    count = n
    if HAS_MASK:
        count = gl.load(lead + row)
    return gl.maximum(count, 0) // K * K, count < 0


@gluon.jit
def masked(s, mask, row, start, n, mask_r, mask_n, dead, HAS_MASK: gl.constexpr, LAYOUT: gl.constexpr):
    """Logits s [M, K] with those of padded keys, or of none, in their place."""
    key = start + gl.arange(0, s.shape[1], gl.SliceLayout(0, LAYOUT))
    real = key < n
    fill = gl.where(real, gl.where(dead, 0.0, PADDED), float("-inf"))
    if HAS_MASK:
        real = gl.load(mask + row * mask_r + key.to(gl.int64) * mask_n, mask=real, other=0.0) != 0
    return gl.where(real[None, :], s, fill[None, :])


@gluon.jit
def produce(
    k_desc, v_desc, bias_desc, k_s, v_s, bias_s, full, empty, tasks, rows, n,
    ROWS: gl.constexpr, Q: gl.constexpr, K: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr, HAS_BIAS: gl.constexpr,
):  # fmt: skip
    """Fills the ring of tiles: a bias tile for all rows, keys and values for each."""
    BIAS_BYTES: gl.constexpr = Q * K * 2 if HAS_BIAS else 0
    BYTES: gl.constexpr = ROWS * K * D * 4 + BIAS_BYTES
    count = 0
    for task in range(gl.program_id(0), tasks, gl.num_programs(0)):
        start, first, head = task_of(task, n, rows, Q, ROWS)
        for i in range(0, n, K):
            stage = count % STAGES
            mbarrier.wait(empty.index(stage), (count // STAGES & 1) ^ 1)
            bar = full.index(stage)
            mbarrier.expect(bar, BYTES)
            if HAS_BIAS:
                load_tile(bias_desc, [start, head, i], bar, bias_s.index(stage))
            for w in gl.static_range(ROWS):
                row = gl.minimum(first + w, rows - 1)
                load_tile(k_desc, [row, i, head, 0], bar, k_s.index(stage * ROWS + w))
                load_tile(v_desc, [row, i, head, 0], bar, v_s.index(stage * ROWS + w))
            count += 1


@gluon.jit
def row_with_maximum(
    q, k, v, bias, k_n, v_n, bias_q, n, mask, row, mask_r, mask_n, split, dead, token,
    D: gl.constexpr, M: gl.constexpr, HAS_BIAS: gl.constexpr, HAS_MASK: gl.constexpr,
):  # fmt: skip
    """All keys again, with the running maximum, for logits too far from 0: by itself and slowly. Returns it, the sums and sum p v."""
    K: gl.constexpr = 32
    S: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [4, 1], [16, 8])
    LEFT: gl.constexpr = gl.DotOperandLayout(0, S, 2)
    RIGHT: gl.constexpr = gl.DotOperandLayout(1, S, 2)
    q = gl.convert_layout(q, LEFT)
    token = gl.minimum(gl.convert_layout(token, gl.SliceLayout(1, S)), n - 1).to(gl.int64)
    m = gl.full([M], float("-inf"), gl.float32, gl.SliceLayout(1, S))
    total = gl.zeros([M], gl.float32, gl.SliceLayout(1, S))
    acc = gl.zeros([M, D], gl.float32, S)
    for i in range(0, n, K):
        key = i + gl.arange(0, K, gl.SliceLayout(0, RIGHT))
        channel = gl.arange(0, D, gl.SliceLayout(1, RIGHT))
        # [D, K], [K, D]
        b_k = gl.load(k + key.to(gl.int64)[None, :] * k_n + channel[:, None], mask=(key < n)[None, :], other=0.0)
        key = i + gl.arange(0, K, gl.SliceLayout(1, RIGHT))
        channel = gl.arange(0, D, gl.SliceLayout(0, RIGHT))
        b_v = gl.load(v + key.to(gl.int64)[:, None] * v_n + channel[None, :], mask=(key < n)[:, None], other=0.0)
        s = gl.zeros([M, K], gl.float32, S)
        if HAS_BIAS:
            key = i + gl.arange(0, K, gl.SliceLayout(0, S))
            s = gl.load(bias + token[:, None] * bias_q + key[None, :], mask=(key < n)[None, :], other=0.0).to(gl.float32)
        s = mma_v2(q, b_k, s)
        if i + K > split:
            s = masked(s, mask, row, i, n, mask_r, mask_n, dead, HAS_MASK, S)
        larger = gl.maximum(m, gl.max(s, 1))
        shrink = gl.exp2(m - larger)
        m = larger
        p = gl.exp2(s - m[:, None])
        total = total * shrink + gl.sum(p, 1)
        acc = mma_v2(gl.convert_layout(p.to(b_v.dtype), LEFT), b_v, acc * shrink[:, None])
    return m, total, acc


@gluon.jit
def attend(
    where, sizes, strides, rings,
    WHICH: gl.constexpr, ROWS: gl.constexpr, PARTS: gl.constexpr, M: gl.constexpr, K: gl.constexpr, D: gl.constexpr, H: gl.constexpr,
    STAGES: gl.constexpr, Q_H: gl.constexpr, K_H: gl.constexpr, V_H: gl.constexpr, GATE_H: gl.constexpr,
    HAS_BIAS: gl.constexpr, HAS_MASK: gl.constexpr, HAS_LSE: gl.constexpr, EVEN: gl.constexpr,
):  # fmt: skip
    """A group's M queries of one row and head of each task."""
    q, k, v, gate, bias, mask, lead, o, lse = where
    tasks, rows, n, scale = sizes
    q_r, q_n, k_r, k_n, v_r, v_n, gate_r, gate_n, bias_n, mask_r, mask_n = strides
    k_s, v_s, bias_s, full, empty = rings
    PART: gl.constexpr = WHICH % PARTS
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, K, 16])  # of logits
    OUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    MEMORY: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [4, 1], [1, 0])
    nothing = gl.zeros([M, K], gl.float32, S)
    channel = gl.arange(0, D, gl.SliceLayout(0, MEMORY))
    count = 0
    for task in range(gl.program_id(0), tasks, gl.num_programs(0)):
        start, first, head = task_of(task, n, rows, M * PARTS, ROWS)
        row = gl.minimum(first + WHICH // PARTS, rows - 1).to(gl.int64)
        token = start + PART * M + gl.arange(0, M, gl.SliceLayout(1, MEMORY))
        inside = (token < n)[:, None] & (channel < D)[None, :]
        b_q = gl.load(q + row * q_r + head * Q_H + token.to(gl.int64)[:, None] * q_n + channel[None, :], mask=inside, other=0.0)
        b_q = (b_q.to(gl.float32) * (scale * LOG2E)).to(b_q.dtype)
        left = gl.convert_layout(b_q, gl.DotOperandLayout(0, S, 2))
        split, dead = unmasked_keys(lead, row, n, K, HAS_MASK)
        acc = warpgroup_mma_init(gl.zeros([M, D], gl.float32, OUT))
        sums = gl.sum(gl.reshape(nothing, [M, K // 8, 8]), 1)  # of every eighth key: within a thread
        for i in range(0, n, K):
            stage = count % STAGES
            at = stage * ROWS + WHICH // PARTS
            mbarrier.wait(full.index(stage), count // STAGES & 1)
            s = nothing
            if HAS_BIAS:
                s = bias_s.index(stage).reshape([PARTS * M, K]).slice(PART * M, M).load(S).to(gl.float32)
            s = warpgroup_mma(left, k_s.index(at).reshape([K, D]).permute((1, 0)), s, use_acc=HAS_BIAS, is_async=True)
            s, acc = warpgroup_mma_wait(0, deps=[s, acc])
            if i > 0:
                mbarrier.arrive(empty.index((count - 1) % STAGES), count=1)
            if HAS_MASK or not EVEN:
                if i + K > split:
                    s = masked(s, mask, row, i, n, mask_r, mask_n, dead, HAS_MASK, S)
            p = exp2(s)
            sums += gl.sum(gl.reshape(p, [M, K // 8, 8]), 1)
            p = gl.convert_layout(p.to(b_q.dtype), gl.DotOperandLayout(0, OUT, 2))
            acc = warpgroup_mma(p, v_s.index(at).reshape([K, D]), acc, is_async=True)
            count += 1
        acc = warpgroup_mma_wait(0, deps=[acc])
        mbarrier.arrive(empty.index((count - 1) % STAGES), count=1)
        total = gl.convert_layout(gl.sum(sums, 1), gl.SliceLayout(1, MEMORY))
        out = gl.convert_layout(acc, MEMORY)
        m = gl.zeros([M], gl.float32, gl.SliceLayout(1, MEMORY))
        if not ((gl.max(total, 0) < 1152921504606846976.0) & (gl.min(total, 0) > 8.673617379884035e-19)):  # NaN comes here too
            of_head = q  # there is none
            if HAS_BIAS:
                of_head = bias + head * bias_n
            m, total, out = row_with_maximum(
                b_q, k + row * k_r + head * K_H, v + row * v_r + head * V_H, of_head, k_n, v_n, H * bias_n,
                n, mask, row, mask_r, mask_n, split, dead, token, D, M, HAS_BIAS, HAS_MASK,
            )  # fmt: skip
            m = gl.convert_layout(m, gl.SliceLayout(1, MEMORY))
            total = gl.convert_layout(total, gl.SliceLayout(1, MEMORY))
            out = gl.convert_layout(out, MEMORY)
        gates = gate + row * gate_r + head * GATE_H + token.to(gl.int64)[:, None] * gate_n + channel[None, :]
        b_gate = gl.load(gates, mask=inside, other=0.0).to(gl.float32)
        out *= reciprocal(total[:, None] * (1 + exp2(b_gate * -LOG2E)))
        alive = first + WHICH // PARTS < rows
        gl.store(o + (row * n * H + head) * D + token[:, None] * (H * D) + channel[None, :], out.to(b_q.dtype), mask=inside & alive)
        if HAS_LSE:
            gl.store(lse + (row * H + head) * n + token, m + gl.log2(total), mask=(token < n) & alive)


@gluon.jit(do_not_specialize=["tasks", "rows"])
def forward_kernel(
    q, k, v, gate, bias, mask, lead, o, lse, k_desc, v_desc, bias_desc,
    tasks, rows, n, q_r, q_n, k_r, k_n, v_r, v_n, gate_r, gate_n, bias_n, mask_r, mask_n, scale,
    Q_H: gl.constexpr, K_H: gl.constexpr, V_H: gl.constexpr, GATE_H: gl.constexpr, H: gl.constexpr, D: gl.constexpr,
    ROWS: gl.constexpr, PARTS: gl.constexpr, M: gl.constexpr, K: gl.constexpr, STAGES: gl.constexpr, REGISTERS: gl.constexpr,
    HAS_BIAS: gl.constexpr, HAS_MASK: gl.constexpr, HAS_LSE: gl.constexpr, EVEN: gl.constexpr,
):  # fmt: skip
    """Tasks of ROWS rows and PARTS * M queries of one head, one group of warps for each row and part."""
    k_s = gl.allocate_shared_memory(q.dtype.element_ty, [STAGES * ROWS, 1, K, 1, D], k_desc.layout)
    v_s = gl.allocate_shared_memory(q.dtype.element_ty, [STAGES * ROWS, 1, K, 1, D], v_desc.layout)
    bias_s = k_s  # there is none
    if HAS_BIAS:
        bias_s = gl.allocate_shared_memory(bias_desc.dtype, [STAGES, PARTS * M, 1, K], bias_desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=ROWS * PARTS)
    where = (q, k, v, gate, bias, mask, lead, o, lse)
    sizes = (tasks, rows, n, scale)
    strides = (q_r, q_n, k_r, k_n, v_r, v_n, gate_r, gate_n, bias_n, mask_r, mask_n)
    rings = (k_s, v_s, bias_s, full, empty)
    gl.static_assert(ROWS * PARTS == 4)
    gl.warp_specialize([
        (attend, (where, sizes, strides, rings, 0, ROWS, PARTS, M, K, D, H, STAGES, Q_H, K_H, V_H, GATE_H,
                  HAS_BIAS, HAS_MASK, HAS_LSE, EVEN)),
        (attend, (where, sizes, strides, rings, 1, ROWS, PARTS, M, K, D, H, STAGES, Q_H, K_H, V_H, GATE_H,
                  HAS_BIAS, HAS_MASK, HAS_LSE, EVEN)),
        (attend, (where, sizes, strides, rings, 2, ROWS, PARTS, M, K, D, H, STAGES, Q_H, K_H, V_H, GATE_H,
                  HAS_BIAS, HAS_MASK, HAS_LSE, EVEN)),
        (attend, (where, sizes, strides, rings, 3, ROWS, PARTS, M, K, D, H, STAGES, Q_H, K_H, V_H, GATE_H,
                  HAS_BIAS, HAS_MASK, HAS_LSE, EVEN)),
        (produce, (k_desc, v_desc, bias_desc, k_s, v_s, bias_s, full, empty, tasks, rows, n, ROWS, PARTS * M, K, D, STAGES, HAS_BIAS)),
    ], [4, 4, 4, 1], [REGISTERS, REGISTERS, REGISTERS, 24])  # fmt: skip


def swizzled(width: int, rank: int) -> gl.NVMMASharedLayout:
    """Of tiles of `width` 16-bit values: what TMA writes and matrix units read without bank conflicts."""
    return gl.NVMMASharedLayout(min(128, 2 * width), 16, rank=rank)


def tiles_of(x: Tensor, *block: int) -> TensorDescriptor:
    return TensorDescriptor(x, list(x.shape), list(x.stride()), list(block), swizzled(block[-1], len(block)))


def attention_forward(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor | None, mask: Tensor | None, lead: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """As triton_attention.attention_forward, where `fits`."""
    r, n, h, d = q.shape
    o = torch.empty(r, n, h, d, dtype=q.dtype, device=q.device)
    lse = torch.empty(r, h, n, dtype=torch.float32, device=q.device) if keep else None
    bias = None if bias is None else scaled_bias(bias)
    tasks = cdiv(n, PARTS * QUERIES) * cdiv(r, ROWS) * h
    programs = torch.cuda.get_device_properties(q.device).multi_processor_count
    forward_kernel[(min(tasks, programs),)](
        q, k, v, gate, bias, mask, lead, o, lse, tiles_of(k, 1, KEYS, 1, d), tiles_of(v, 1, KEYS, 1, d),
        None if bias is None else tiles_of(bias, PARTS * QUERIES, 1, KEYS), tasks, r, n,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1), gate.stride(0), gate.stride(1),
        0 if bias is None else bias.stride(1), *((0, 0) if mask is None else mask.stride()), d**-0.5,
        Q_H=q.stride(2), K_H=k.stride(2), V_H=v.stride(2), GATE_H=gate.stride(2), H=h, D=d,
        ROWS=ROWS, PARTS=PARTS, M=QUERIES, K=KEYS, STAGES=STAGES, REGISTERS=REGISTERS,
        HAS_BIAS=bias is not None, HAS_MASK=mask is not None, HAS_LSE=keep, EVEN=n % KEYS == 0, num_warps=4,
    )  # fmt: skip
    return o, lse
