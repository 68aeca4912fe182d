"""The forward of triton_outer_product.py for NVIDIA Hopper, in Triton's Gluon dialect: the same mathematics and memory.

Groups of four warps each own 32 x 4 pairs, whose update stays in registers while the channels go by, two of a at a time. The 64 rows of a
product are these two channels of 32 residues i, its columns 4 residues j with all channels of b: so a thread holds for two residues j
what the next product, over channels, wants of two rows of its left operand, and the outer products become that operand in the registers
where they are. One more warp fetches a and the weights, which both groups share, ahead of them by TMA; those channels of b that a
program's pairs need stay on chip while it goes along i.
Shapes: as in triton_outer_product.py; o = p = 32 channels, z = 128.
"""

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_init,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from foldfit.ops.grids import cdiv
from foldfit.ops.hopper_transition import fill, release, ring_of, store_layout, take
from foldfit.ops.hopper_triangle import barrier, load_tile

memory = gl.shared_memory_descriptor
reinterpret = getattr(memory, "reinterpret", None) or memory._reinterpret  # its names after Triton 3.6, and until then
CHANNELS, WIDTH = 32, 128
"""Of a and b, out."""
X, Y, K = gl.constexpr(32), gl.constexpr(4), gl.constexpr(64)
"""Of a group: residues i and j; sequences at a time."""
REGISTERS, AHEAD = 240, 6
"""Of a thread; steps, of two channels of a each, that are on chip at most."""
LONGEST = 512
"""Sequences of which b stays on chip."""
ROOM = 232448 - 1024
"""Bytes on chip for tiles; the rest is for barriers."""


def chunks_of(n: int) -> int:
    """Of K sequences; 7 would leave no room for a whole step's, and have no half."""
    chunks = cdiv(n, K.value)
    return 8 if chunks == 7 else chunks


def tile_of(n: int) -> tuple[int, int]:
    """Groups along i and along j: two along j share a, until b of both leaves no room for two steps of it."""
    return (1, 2) if n <= 256 else (2, 1)


def slots_of(n: int) -> tuple[int, int]:
    """Chunks of a and blocks of the weights on chip: of as many steps as there is room for, or half a step's chunks."""
    (along_i, along_j), chunks = tile_of(n), chunks_of(n)
    a, w = along_i * 2 * X.value * K.value * 2, 2 * CHANNELS * WIDTH * 2
    left = ROOM - along_j * chunks * Y.value * CHANNELS * K.value * 2
    steps = min(left // (chunks * a + w), AHEAD)
    slots = steps * chunks or chunks // 2
    return slots, min((left - slots * a) // w, AHEAD)


def fits(a: Tensor, b: Tensor, w: Tensor) -> bool:
    """Whether this kernel, once on Hopper, is for a [r, o, n], b [R, p, n], w [o, p, z]: bf16, these channels, b's part on chip, what TMA
    can address."""
    if any(t.dtype != torch.bfloat16 or t.data_ptr() % 16 or not t.is_contiguous() for t in (a, b, w)):
        return False
    return w.shape == (CHANNELS, CHANNELS, WIDTH) and a.numel() > 0 and b.numel() > 0 and a.shape[2] <= LONGEST and a.shape[2] % 8 == 0


@gluon.jit
def chunk_of(ring, step, k, CHUNKS: gl.constexpr):
    """Where chunk k of a step lies in the ring of a, and which turn of its barriers it is."""
    SLOTS: gl.constexpr = ring[1].shape[0]
    if SLOTS % CHUNKS == 0:
        STEPS: gl.constexpr = SLOTS // CHUNKS
        return step % STEPS * CHUNKS + k, step // STEPS
    else:
        gl.static_assert(CHUNKS % SLOTS == 0)
        return k % SLOTS, step * (CHUNKS // SLOTS) + k // SLOTS


@gluon.jit
def fill_a(desc, i, channel, k, ring, step, XS: gl.constexpr, CHUNKS: gl.constexpr):
    """Chunk k of a step: 2 channels of the residues i of all groups, K sequences. A group's rows are, from the outermost on, 4 eights of
    residues, the channels and the residues of an eight."""
    blocks, full, empty = ring
    slot, turn = chunk_of(ring, step, k, CHUNKS)
    mbarrier.wait(empty.index(slot), (turn & 1) ^ 1)
    mbarrier.expect(full.index(slot), XS * 2 * X * K * 2)
    if len(desc.block_shape) == 4:
        for x in gl.static_range(XS):
            block = blocks.index(slot * XS + x).reshape([X // 8, 2, 8, K])
            load_tile(desc, [i // 8 + x * (X // 8), channel, 0, k * K], full.index(slot), block)
    else:  # residues are no whole eights
        EIGHTS: gl.constexpr = XS * 2 * X // 8
        rows = reinterpret(blocks, desc.dtype, [blocks.shape[0] * 2 * X // 8, 1, 8, K], desc.layout)
        for eight in range(EIGHTS):
            load_tile(desc, [channel + eight % 2, i + eight // 2 * 8, k * K], full.index(slot), rows.index(slot * EIGHTS + eight))


@gluon.jit
def produce(
    a_desc, b_desc, w_desc, a_ring, b_ring, w_ring, first, last, tiles, XS: gl.constexpr, YS: gl.constexpr, CHUNKS: gl.constexpr,
    CHANNELS: gl.constexpr,
):  # fmt: skip
    """Fills all rings, in the order in which groups use them."""
    b_s, b_full, b_empty = b_ring
    N: gl.constexpr = b_desc.block_shape[0]
    step = 0
    columns = 0
    before = -1
    for tile in range(first, last):
        i = tile % tiles * (XS * X)
        j = tile // tiles
        if j != before:
            mbarrier.wait(b_empty.index(0), (columns & 1) ^ 1)
            for chunk in range(CHUNKS):
                mbarrier.expect(b_full.index(chunk), YS * N * K * 2)
                for y in gl.static_range(YS):
                    load_tile(b_desc, [(j * YS + y) * N, chunk * K], b_full.index(chunk), b_s.index(chunk * YS + y))
            columns += 1
            before = j
        for c in range(0, CHANNELS, 2):
            for chunk in range(CHUNKS):
                fill_a(a_desc, i, c, chunk, a_ring, step, XS, CHUNKS)
            step = fill(w_desc, c * CHANNELS, 0, w_ring, step)


@gluon.jit
def release_a(ring, step, k, CHUNKS: gl.constexpr):
    """A group has read chunk k of a step."""
    slot, _ = chunk_of(ring, step, k, CHUNKS)
    mbarrier.arrive(ring[2].index(slot), count=1)


@gluon.jit
def zero_of(x):
    """0, and the compiler does not know: what is indexed with it is computed where it is used, not kept."""
    return gl.inline_asm_elementwise("mov.b32 $0, 0;", "=r,r", [x], gl.int32, False, 1)


@gluon.jit
def outer(a_ring, b_s, y, step, like, group, XS: gl.constexpr, YS: gl.constexpr):
    """Products of two channels of the group's residues i with its residues j, under way; chunks before the last but one are given back
    meanwhile."""
    blocks, full, _ = a_ring
    CHUNKS: gl.constexpr = b_s.shape[0] // YS
    h = like
    if CHUNKS > 4:
        y += zero_of(step)
    for k in gl.static_range(CHUNKS):
        slot, turn = chunk_of(a_ring, step, k, CHUNKS)
        mbarrier.wait(full.index(slot), turn & 1)
        columns = b_s.index(k * YS + y).permute((1, 0))
        h = warpgroup_mma(blocks.index(slot * XS + group), columns, h, use_acc=k > 0, is_async=True)
        if CHUNKS > 2 and k > 0:
            h = warpgroup_mma_wait(1, deps=[h])
            release_a(a_ring, step, k - 1, CHUNKS)
    return h


@gluon.jit
def release_rest(a_ring, step, CHUNKS: gl.constexpr):
    """Chunks that `outer` has not given back."""
    for k in gl.static_range(CHUNKS - 1 if CHUNKS > 2 else 0, CHUNKS):
        release_a(a_ring, step, k, CHUNKS)


@gluon.jit
def operands(h, LEFT: gl.constexpr):
    """Outer products [eights of i, channels of a, i of an eight; j, channels of b] as left operands [eights of i, 2 j, i; channels]: of the
    first two residues j and of the others."""
    CHANNELS: gl.constexpr = 32
    h = gl.reshape(h.to(gl.bfloat16), [4, 2, 8, 2, 2, CHANNELS])
    h = gl.permute(h, (0, 4, 2, 1, 5, 3))
    left, right = gl.split(gl.reshape(h, [64, 2 * CHANNELS, 2]))
    return gl.convert_layout(left, LEFT), gl.convert_layout(right, LEFT)


@gluon.jit
def begin(w_b, OUT: gl.constexpr):
    """An update [64, z]: the bias, in every row."""
    Z: gl.constexpr = 128
    zero = gl.zeros([64, Z], gl.float32, OUT)
    bias = gl.load(w_b + gl.arange(0, Z, gl.SliceLayout(0, OUT))).to(gl.float32)
    return warpgroup_mma_init(zero + bias[None, :])


@gluon.jit
def pairs(i, j, LAYOUT: gl.constexpr):
    """Residues of an update's rows."""
    row = gl.arange(0, 64, gl.SliceLayout(1, LAYOUT))
    return i + row // 16 * 8 + row % 8, j + row // 8 % 2


@gluon.jit
def land(update, i, j, scale, r, rows, target, source, factors, target_r, target_n, source_r, source_n, factors_r, factors_n):
    """An update, times scale, where `put` has it."""
    OUT: gl.constexpr = update.type.layout
    Z: gl.constexpr = update.shape[1]
    STORE: gl.constexpr = store_layout(64, Z)
    at_i, at_j = pairs(i, j, STORE)
    inside = gl.broadcast(((at_i < r) & (at_j < rows))[:, None], gl.zeros([64, Z], gl.int32, STORE))[0]
    at_i = at_i.to(gl.int64)
    at_j = at_j.to(gl.int64)
    z = gl.arange(0, Z, gl.SliceLayout(0, STORE))[None, :]
    if source is not None:
        b_source = gl.load(source + (at_i * source_r + at_j * source_n)[:, None] + z, mask=inside, other=0.0)
    of_i, of_j = pairs(i, j, OUT)
    update *= gl.load(scale + of_i.to(gl.int64) * rows + of_j, mask=(of_i < r) & (of_j < rows), other=0.0).to(gl.float32)[:, None]
    if factors is not None:
        b_factors = gl.load(factors + (at_i * factors_r + at_j * factors_n)[:, None] + z, mask=inside, other=0.0)
        update *= gl.convert_layout(b_factors, OUT).to(gl.float32)
    if source is not None:
        update += gl.convert_layout(b_source, OUT).to(gl.float32)
    update = gl.convert_layout(update.to(target.dtype.element_ty), STORE)
    gl.store(target + (at_i * target_r + at_j * target_n)[:, None] + z, update, mask=inside)


@gluon.jit
def update_pairs(
    a_ring, b_ring, w_ring, w_b, scale, first, last, tiles, r, rows, place,
    WHICH: gl.constexpr, XS: gl.constexpr, YS: gl.constexpr, CHUNKS: gl.constexpr, CHANNELS: gl.constexpr,
):  # fmt: skip
    """A group's X x Y pairs of each tile."""
    target, source, factors, target_r, target_n, source_r, source_n, factors_r, factors_n = place
    b_s, b_full, b_empty = b_ring
    N: gl.constexpr = b_s.shape[1]
    H: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, N, 16])
    OUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16])
    LEFT: gl.constexpr = gl.DotOperandLayout(0, OUT, 2)
    MINE: gl.constexpr = WHICH % YS
    GROUP: gl.constexpr = WHICH // YS
    no_h = gl.zeros([64, N], gl.float32, H)
    step = 0
    columns = 0
    before = -1
    for tile in range(first, last):
        i = (tile % tiles * XS + GROUP) * X
        j = tile // tiles
        columns += (j != before).to(gl.int32)
        before = j
        for chunk in gl.static_range(CHUNKS):
            mbarrier.wait(b_full.index(chunk), (columns & 1) ^ 1)
        at_j = (j * YS + MINE) * Y
        here = begin(w_b, OUT)
        there = begin(w_b, OUT)
        for _ in range(0, CHANNELS, 2):
            h = outer(a_ring, b_s, MINE, step, no_h, GROUP, XS, YS)
            w = take(w_ring, step)
            h = warpgroup_mma_wait(0, deps=[h])
            left, right = operands(h, LEFT)
            here = warpgroup_mma(left, w, here, is_async=True)
            there = warpgroup_mma(right, w, there, is_async=True)
            release_rest(a_ring, step, CHUNKS)
            here, there = warpgroup_mma_wait(0, deps=[here, there])
            here = warpgroup_mma_init(here)
            there = warpgroup_mma_init(there)
            step = release(w_ring, step, 1)
        here, there = warpgroup_mma_wait(0, deps=[here, there])
        if (tile + 1) // tiles != j:
            mbarrier.arrive(b_empty.index(0), count=1)
        land(here, i, at_j, scale, r, rows, target, source, factors, target_r, target_n, source_r, source_n, factors_r, factors_n)
        land(there, i, at_j + 2, scale, r, rows, target, source, factors, target_r, target_n, source_r, source_n, factors_r, factors_n)


@gluon.jit(do_not_specialize=["r", "rows", "tiles", "all_tiles"])
def outer_product_kernel(
    a_desc, b_desc, w_desc, w_b, scale, r, rows, tiles, all_tiles,
    target, source, factors, target_r, target_n, source_r, source_n, factors_r, factors_n,
    XS: gl.constexpr, YS: gl.constexpr, CHUNKS: gl.constexpr, CHANNELS: gl.constexpr, A_SLOTS: gl.constexpr, W_SLOTS: gl.constexpr,
    REGISTERS: gl.constexpr,
):  # fmt: skip
    """target [r, R, z], as `put` has it; tiles of XS * X residues i, all_tiles also of YS * Y residues j."""
    N: gl.constexpr = b_desc.block_shape[0]
    gl.static_assert(XS * YS == 2)
    a_s = gl.allocate_shared_memory(a_desc.dtype, [A_SLOTS * XS, 2 * X, K], gl.NVMMASharedLayout(128, 16))
    b_s = gl.allocate_shared_memory(b_desc.dtype, [CHUNKS * YS, N, K], b_desc.layout)
    a_full = gl.allocate_shared_memory(gl.int64, [A_SLOTS, 1], mbarrier.MBarrierLayout())
    a_empty = gl.allocate_shared_memory(gl.int64, [A_SLOTS, 1], mbarrier.MBarrierLayout())
    b_full = gl.allocate_shared_memory(gl.int64, [CHUNKS, 1], mbarrier.MBarrierLayout())
    b_empty = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(A_SLOTS):
        mbarrier.init(a_full.index(i), count=1)
        mbarrier.init(a_empty.index(i), count=2)
    for i in gl.static_range(CHUNKS):
        mbarrier.init(b_full.index(i), count=1)
    mbarrier.init(b_empty.index(0), count=2)
    w_ring = ring_of(w_desc, W_SLOTS, 2)
    fence_async_shared()
    barrier()
    first = gl.program_id(0) * (all_tiles // gl.num_programs(0)) + gl.minimum(gl.program_id(0), all_tiles % gl.num_programs(0))
    last = first + all_tiles // gl.num_programs(0) + (gl.program_id(0) < all_tiles % gl.num_programs(0)).to(gl.int32)
    a_ring = (a_s, a_full, a_empty)
    b_ring = (b_s, b_full, b_empty)
    place = (target, source, factors, target_r, target_n, source_r, source_n, factors_r, factors_n)
    gl.warp_specialize([
        (update_pairs, (a_ring, b_ring, w_ring, w_b, scale, first, last, tiles, r, rows, place, 0, XS, YS, CHUNKS, CHANNELS)),
        (update_pairs, (a_ring, b_ring, w_ring, w_b, scale, first, last, tiles, r, rows, place, 1, XS, YS, CHUNKS, CHANNELS)),
        (produce, (a_desc, b_desc, w_desc, a_ring, b_ring, w_ring, first, last, tiles, XS, YS, CHUNKS, CHANNELS)),
    ], [4, 1], [REGISTERS, 24])  # fmt: skip


def described(x: Tensor, shape: list[int], strides: list[int], block: list[int]) -> TensorDescriptor:
    return TensorDescriptor(x, shape, strides, block, gl.NVMMASharedLayout(128, 16, rank=len(block)))


def eights(a: Tensor) -> TensorDescriptor:
    """Tiles of a [r, o, n]: eights of residues, or, where r has no whole ones, one eight and channel each."""
    r, o, n = a.shape
    if r % 8:
        return described(a, [o, r, n], [n, o * n, 1], [1, 8, K.value])
    return described(a, [r // 8, o, 8, n], [8 * o * n, n, o * n, 1], [X.value // 8, 2, 8, K.value])


def forward(a: Tensor, b: Tensor, w: Tensor, w_b: Tensor, scale: Tensor, place: tuple[Tensor | int | None, ...]) -> None:
    """As triton_outer_product.forward, where `fits`; `place`: as `triton_residual.placed` has it."""
    (r, o, n), rows, z = a.shape, len(b), w.shape[2]
    (along_i, along_j), (a_slots, w_slots) = tile_of(n), slots_of(n)
    tiles = cdiv(r, along_i * X.value)
    all_tiles = tiles * cdiv(rows, along_j * Y.value)
    programs = min(all_tiles, torch.cuda.get_device_properties(a.device).multi_processor_count)
    outer_product_kernel[(programs,)](
        eights(a), described(b, [rows * o, n], [n, 1], [Y.value * o, K.value]),
        described(w, [o * o, z], [z, 1], [2 * o, z]), w_b, scale, r, rows, tiles, all_tiles, *place,
        XS=along_i, YS=along_j, CHUNKS=chunks_of(n), CHANNELS=o, A_SLOTS=a_slots, W_SLOTS=w_slots,
        REGISTERS=REGISTERS, num_warps=4,
    )  # fmt: skip
