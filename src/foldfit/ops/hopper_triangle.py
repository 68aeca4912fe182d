"""The forward kernels of triton_gated_linear.py and triton_triangle.py for NVIDIA Hopper, in Triton's Gluon dialect: the same mathematics.

Tiles of T tokens of one row come by TMA while those before are worked on; a norm overwrites its tile where it lies, and the matrix units
read it from there. A projection is made channels first, [q, T]: its left operand, the weights, is wide whatever T is, so that few
registers hold it and eight warps can compute while eight others wait: in another program, or, where tiles leave no room for the weights
a second time, as another group of the same. The backwards: hopper_triangle_backward.py.
Shapes: as there; all of c, u are C channels.
"""

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from foldfit.ops.grids import cdiv
from foldfit.ops.triton_layer_norm import EPSILON

CHANNELS, PROGRAMS = 128, 132
"""Channels of everything; programs that fill an H200."""
TOKENS, WARPS, STAGES, REGISTERS = 64, 8, 2, 128
"""Of a tile, of a group of warps, its tiles on chip and a thread's registers: two groups fill a multiprocessor.

The best of 7 each for the projections and the epilogue measured on an NVIDIA H100 (Triton 3.6, 2026-11-26).
"""
EPS = gl.constexpr(EPSILON.value)


load_tile = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared  # their names after Triton 3.6, and until then
store_tile = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global
barrier = getattr(gl, "barrier", None) or gl.thread_barrier


def fits(x: Tensor, *others: Tensor) -> bool:
    """Whether these kernels, once on Hopper, are for x [r, n, c] and others [u, r, n]: bf16, these channels, what TMA can address."""
    if x.dtype != torch.bfloat16 or x.shape[2] != CHANNELS or any(len(o) != CHANNELS for o in others):
        return False
    aligned = (o.data_ptr() % 16 == 0 and o.stride(2) == 1 and all(s > 0 and s % 8 == 0 for s in o.stride()[:2]) for o in (x, *others))
    return x.numel() > 0 and all(aligned)


@gluon.jit
def sigmoid(x):
    half = gl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x * 0.5], gl.float32, True, 1)
    return half * 0.5 + 0.5


@gluon.jit
def moments(x, C: gl.constexpr, AXIS: gl.constexpr):
    """(x - mean) / deviation over an axis, 1 / deviation."""
    x -= gl.expand_dims(gl.sum(x, AXIS) * (1.0 / C), AXIS)
    inverse = gl.rsqrt(gl.sum(x * x, AXIS) * (1.0 / C) + EPS)
    return x * gl.expand_dims(inverse, AXIS), inverse


@gluon.jit
def normalise(tile, WARPS: gl.constexpr):
    """A tile [T, C] where it lies; returns 1 / deviation [T]."""
    ROWS: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [WARPS, 1], [1, 0])
    hat, inverse = moments(tile.load(ROWS).to(gl.float32), tile.shape[1], 1)
    tile.store(hat.to(tile.dtype))
    return inverse


@gluon.jit
def normalise_columns(tile, WARPS: gl.constexpr):
    """A tile [C, T]."""
    T: gl.constexpr = tile.shape[1]
    COLUMNS: gl.constexpr = gl.BlockedLayout([1, 2], [64 // T, T // 2], [WARPS, 1], [1, 0])
    hat, inverse = moments(tile.load(COLUMNS).to(gl.float32), tile.shape[0], 0)
    tile.store(hat.to(tile.dtype))
    return inverse


@gluon.jit
def weights(f, dtype: gl.constexpr, C: gl.constexpr, WARPS: gl.constexpr):
    """f [C, C] on chip."""
    MEMORY: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [WARPS, 1], [1, 0])
    row = gl.arange(0, C, gl.SliceLayout(1, MEMORY))
    column = gl.arange(0, C, gl.SliceLayout(0, MEMORY))
    return gl.allocate_shared_memory(dtype, [C, C], gl.NVMMASharedLayout(128, 16), gl.load(f + row[:, None] * C + column[None, :]))


@gluon.jit
def rings(STAGES: gl.constexpr):
    """Barriers of tiles under way."""
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
    fence_async_shared()
    barrier()
    return full


@gluon.jit
def fetch(rows, columns, full, slot, tile, last, tiles):
    """A tile of each of `rows`, descriptors of [r, n, c] and their rings, and of `columns`, of [c, r, n]."""
    T: gl.constexpr = rows[0][0].block_shape[1]
    C: gl.constexpr = rows[0][0].block_shape[2]
    if tile < last:
        row = tile // tiles
        token = tile % tiles * T
        mbarrier.expect(full.index(slot), 2 * C * T * (len(rows) + len(columns)))
        for i in gl.static_range(len(rows)):
            load_tile(rows[i][0], [row, token, 0], full.index(slot), rows[i][1].index(slot))
        for i in gl.static_range(len(columns)):
            load_tile(columns[i][0], [0, row, token], full.index(slot), columns[i][1].index(slot))


@gluon.jit
def project(w_s, gate_s, hat, gate_hat, Z: gl.constexpr):
    """Both projections of hat, gate_hat [C, T], under way: [q, T]."""
    C: gl.constexpr = hat.shape[0]
    T: gl.constexpr = hat.shape[1]
    zero = gl.zeros([C, T], gl.float32, Z)
    linear = warpgroup_mma(w_s.permute((1, 0)), hat, zero, use_acc=False, is_async=True)
    gate = warpgroup_mma(gate_s.permute((1, 0)), gate_hat, zero, use_acc=False, is_async=True)
    return linear, gate


@gluon.jit
def kept_of(mask, row, start, n, mask_r, mask_n, T: gl.constexpr, Z: gl.constexpr):
    """[T] of mask [r, n]."""
    token = start + gl.arange(0, T, gl.SliceLayout(0, Z))
    return gl.load(mask + row.to(gl.int64) * mask_r + token.to(gl.int64) * mask_n, mask=token < n, other=0.0)


@gluon.jit
def gated_kernel(
    x_desc, out_desc, mask, f, bias, rows, n, mask_r, mask_n, T: gl.constexpr, C: gl.constexpr, WARPS: gl.constexpr, STAGES: gl.constexpr
):  # fmt: skip
    """out [c, r, n] of x [r, n, c]."""
    dtype: gl.constexpr = x_desc.dtype
    Z: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, T, 16])
    x_s = gl.allocate_shared_memory(dtype, [STAGES, 1, T, C], x_desc.layout)
    out_s = gl.allocate_shared_memory(dtype, [C, 1, T], out_desc.layout)
    w_s = weights(f, dtype, C, WARPS)
    gate_s = weights(f + C * C, dtype, C, WARPS)
    full = rings(STAGES)
    q = gl.arange(0, C, gl.SliceLayout(1, Z))
    b_bias = gl.load(bias + q)[:, None]
    b_gate_bias = gl.load(bias + C + q)[:, None]
    tiles = gl.cdiv(n, T)
    last = rows * tiles
    step = gl.num_programs(0)
    for i in gl.static_range(STAGES - 1):
        fetch(((x_desc, x_s),), (), full, i, gl.program_id(0) + i * step, last, tiles)
    count = 0
    for tile in range(gl.program_id(0), last, step):
        slot = count % STAGES
        row = tile // tiles
        start = tile % tiles * T
        kept = kept_of(mask, row, start, n, mask_r, mask_n, T, Z)
        hat = x_s.index(slot).reshape([T, C])
        mbarrier.wait(full.index(slot), count // STAGES & 1)
        normalise(hat, WARPS)
        fence_async_shared()
        barrier()
        fetch(((x_desc, x_s),), (), full, (count + STAGES - 1) % STAGES, tile + (STAGES - 1) * step, last, tiles)
        linear, gate = project(w_s, gate_s, hat.permute((1, 0)), hat.permute((1, 0)), Z)
        linear, gate = warpgroup_mma_wait(0, deps=[linear, gate])
        linear = (linear + b_bias) * (sigmoid(gate + b_gate_bias) * kept.to(gl.float32)[None, :])
        tma.store_wait(0)
        barrier()
        out_s.reshape([C, T]).store(linear.to(dtype))
        fence_async_shared()
        barrier()
        store_tile(out_desc, [0, row, start], out_s)
        count += 1
    tma.store_wait(0)


@gluon.jit
def rows_at(x, row, start, n, x_r, x_n, T: gl.constexpr, C: gl.constexpr, WARPS: gl.constexpr):
    """T tokens of a row of x [r, n, c] from `start` on, as `normalise` holds a tile."""
    ROWS: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [WARPS, 1], [1, 0])
    token = start + gl.arange(0, T, gl.SliceLayout(1, ROWS))
    at = row.to(gl.int64) * x_r + token.to(gl.int64) * x_n
    return gl.load(x + at[:, None] + gl.arange(0, C, gl.SliceLayout(0, ROWS))[None, :], mask=(token < n)[:, None], other=0.0)


@gluon.jit
def end_tiles(
    x_desc, o_desc, out_desc, bias, x_s, o_s, w_s, gate_s, full, rows, n, source, source_r, source_n,
    ADD: gl.constexpr, GROUP: gl.constexpr, T: gl.constexpr, C: gl.constexpr, WARPS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Every other tile of a program: those of one of its two groups."""
    Z: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, T, 16])
    ring: gl.constexpr = GROUP * STAGES
    q = gl.arange(0, C, gl.SliceLayout(1, Z))
    b_bias = gl.load(bias + q)[:, None]
    b_gate_bias = gl.load(bias + C + q)[:, None]
    tiles = gl.cdiv(n, T)
    last = rows * tiles
    first = gl.program_id(0) * 2 + GROUP
    step = gl.num_programs(0) * 2
    for i in gl.static_range(STAGES - 1):
        fetch(((x_desc, x_s),), ((o_desc, o_s),), full, ring + i, first + i * step, last, tiles)
    count = 0
    for tile in range(first, last, step):
        slot = ring + count % STAGES
        x_hat = x_s.index(slot).reshape([T, C])
        o_hat = o_s.index(slot).reshape([C, T])
        mbarrier.wait(full.index(slot), count // STAGES & 1)
        normalise(x_hat, WARPS)
        normalise_columns(o_hat, WARPS)
        fence_async_shared()
        tma.store_wait(0)  # out of the slot that is filled next
        barrier()
        fetch(((x_desc, x_s),), ((o_desc, o_s),), full, ring + (count + STAGES - 1) % STAGES, tile + (STAGES - 1) * step, last, tiles)
        linear, gate = project(w_s, gate_s, o_hat, x_hat.permute((1, 0)), Z)
        if ADD:
            b_source = rows_at(source, tile // tiles, tile % tiles * T, n, source_r, source_n, T, C, WARPS)
        linear, gate = warpgroup_mma_wait(0, deps=[linear, gate])
        linear = (linear + b_bias) * sigmoid(gate + b_gate_bias)
        barrier()
        x_hat.permute((1, 0)).store(linear.to(x_s.dtype))
        if ADD:
            barrier()
            x_hat.store((x_hat.load(b_source.type.layout).to(gl.float32) + b_source.to(gl.float32)).to(x_s.dtype))
        fence_async_shared()
        barrier()
        store_tile(out_desc, [tile // tiles, tile % tiles * T, 0], x_s.index(slot))
        count += 1
    tma.store_wait(0)


@gluon.jit
def epilogue_kernel(
    x_desc, o_desc, out_desc, f, bias, rows, n, source, source_r, source_n, ADD: gl.constexpr,
    T: gl.constexpr, C: gl.constexpr, WARPS: gl.constexpr, STAGES: gl.constexpr, REGISTERS: gl.constexpr,
):  # fmt: skip
    """out [r, n, c] of x [r, n, c] and o [c, r, n]; ADD: with `source`. In place too: a tile is written once all of it is read."""
    dtype: gl.constexpr = x_desc.dtype
    x_s = gl.allocate_shared_memory(dtype, [2 * STAGES, 1, T, C], x_desc.layout)
    o_s = gl.allocate_shared_memory(dtype, [2 * STAGES, C, 1, T], o_desc.layout)
    w_s = weights(f, dtype, C, WARPS)
    gate_s = weights(f + C * C, dtype, C, WARPS)
    full = rings(2 * STAGES)
    gl.warp_specialize([
        (end_tiles, (
            x_desc, o_desc, out_desc, bias, x_s, o_s, w_s, gate_s, full, rows, n, source, source_r, source_n, ADD, 0, T, C, WARPS, STAGES,
        )),
        (end_tiles, (
            x_desc, o_desc, out_desc, bias, x_s, o_s, w_s, gate_s, full, rows, n, source, source_r, source_n, ADD, 1, T, C, WARPS, STAGES,
        )),
    ], [WARPS], [REGISTERS])  # fmt: skip


def rows_of(x: Tensor) -> TensorDescriptor:
    """Tiles of tokens of x [r, n, c]."""
    return TensorDescriptor(x, list(x.shape), list(x.stride()), [1, TOKENS, CHANNELS], gl.NVMMASharedLayout(128, 16, rank=3))


def columns_of(x: Tensor) -> TensorDescriptor:
    """Tiles of tokens of x [c, r, n]."""
    return TensorDescriptor(x, list(x.shape), list(x.stride()), [CHANNELS, 1, TOKENS], gl.NVMMASharedLayout(128, 16, rank=3))


def gated(x: Tensor, mask: Tensor, f: Tensor, bias: Tensor, out: Tensor) -> None:
    """x [r, n, c]; fills out [u, r, n]."""
    r, n, c = x.shape
    gated_kernel[(min(2 * PROGRAMS, r * cdiv(n, TOKENS)),)](
        rows_of(x), columns_of(out), mask, f, bias, r, n, *mask.stride(),
        T=TOKENS, C=c, WARPS=WARPS, STAGES=STAGES, num_warps=WARPS, maxnreg=REGISTERS,
    )  # fmt: skip


def epilogue(o: Tensor, x: Tensor, f: Tensor, bias: Tensor, out: Tensor, source: Tensor | None) -> None:
    """o [u, r, n], x [r, n, c]; fills out [r, n, c] with the update and source, if any."""
    r, n, c = x.shape
    given = x if source is None else source
    epilogue_kernel[(min(PROGRAMS, cdiv(r * cdiv(n, TOKENS), 2)),)](
        rows_of(x), columns_of(o), rows_of(out), f, bias, r, n, given, *given.stride()[:2], ADD=source is not None,
        T=TOKENS, C=c, WARPS=WARPS, STAGES=STAGES, REGISTERS=REGISTERS, num_warps=WARPS,
    )  # fmt: skip
