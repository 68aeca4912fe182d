"""The forward of triton_transition.py for NVIDIA Hopper, in Triton's Gluon dialect: the same mathematics and memory.

Groups of four warps each own M rows, which lie on chip, normalised, while the hidden layer goes by in blocks of U: a block is made by
one product, becomes the left operand of the next in the registers where it is, and is gone. One product of a block runs with the other of
the block before, and what lies between them behind another group's. One more warp fetches the weights, which all groups share, ahead of
them by TMA; programs stay, so that a group's next rows are under way while its last products are.
Shapes: as in triton_transition.py.
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
from foldfit.ops.hopper_triangle import barrier, load_tile, moments, sigmoid

ROWS, GROUPS, REGISTERS = 64, 2, 240
"""Of a group, of a program, of a thread."""
BLOCKS = {(128, False): (128, 3, 3), (256, False): (64, 2, 3), (128, True): (64, 7, 5), (256, True): (64, 3, 2)}
"""Channels, whether gated -> U, blocks of the first layer's weights on chip, of the second's."""


def fits(x: Tensor, *weights: Tensor) -> bool:
    """Whether this kernel, once on Hopper, is for x [..., c] and the weights, up_w [c, u] first: bf16, these widths, whole blocks of the
    hidden layer, what TMA can address."""
    if any(t.dtype != torch.bfloat16 or t.data_ptr() % 16 or not t.is_contiguous() for t in (x, *weights)):
        return False
    c, u = weights[0].shape
    return (c, len(weights) > 2) in BLOCKS and u % 128 == 0 and x.numel() > 0


@gluon.constexpr_function
def store_layout(rows, width):
    """Of [rows, width] as a product leaves it, but that four threads exchange pairs: together they hold 32 bytes of a row."""
    across = [[0, 1 << i] for i in range(4, width.bit_length() - 1)]
    return gl.DistributedLinearLayout(
        [[0, 1], [0, 2], [8, 0], *across], [[0, 4], [0, 8], [1, 0], [2, 0], [4, 0]], [[16, 0], [32, 0]], [], [rows, width]
    )


@gluon.jit
def rectified(x):
    """max(x, 0) in bf16; NaN stays."""
    return gl.inline_asm_elementwise("cvt.rn.relu.bf16x2.f32 $0, $2, $1;", "=r,f,f", [x], gl.bfloat16, True, 2)


@gluon.jit
def normalise(tile, scale, offset):
    """Rows [M, C], where they lie."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    M: gl.constexpr = tile.shape[0]
    C: gl.constexpr = tile.shape[1]
    channel = gl.arange(0, C, gl.SliceLayout(0, LAYOUT))
    b_scale = gl.load(scale + channel).to(gl.float32)
    b_offset = gl.load(offset + channel).to(gl.float32)
    for start in gl.static_range(0, M, 32):
        rows = tile.slice(start, 32)
        hat, _ = moments(rows.load(LAYOUT).to(gl.float32), C, 1)
        rows.store((hat * b_scale[None, :] + b_offset[None, :]).to(tile.dtype))


@gluon.jit
def ring_of(desc, SLOTS: gl.constexpr, READERS: gl.constexpr):
    """Blocks of a weight under way: where they lie, and the barriers of those that are there and of those that all have read."""
    blocks = gl.allocate_shared_memory(desc.dtype, [SLOTS, desc.block_shape[0], desc.block_shape[1]], desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(SLOTS):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=READERS)
    return blocks, full, empty


@gluon.jit
def fill(desc, row, column, ring, count):
    """The ring's block number `count`, once its slot is free; the next one's."""
    blocks, full, empty = ring
    SLOTS: gl.constexpr = blocks.shape[0]
    BYTES: gl.constexpr = blocks.shape[1] * blocks.shape[2] * 2
    slot = count % SLOTS
    mbarrier.wait(empty.index(slot), (count // SLOTS & 1) ^ 1)
    mbarrier.expect(full.index(slot), BYTES)
    load_tile(desc, [row, column], full.index(slot), blocks.index(slot))
    return count + 1


@gluon.jit
def take(ring, count):
    """The ring's block number `count`, once it is there."""
    blocks, full, _ = ring
    SLOTS: gl.constexpr = blocks.shape[0]
    mbarrier.wait(full.index(count % SLOTS), count // SLOTS & 1)
    return blocks.index(count % SLOTS)


@gluon.jit
def release(ring, count, BLOCKS: gl.constexpr):
    """A group has read these, from number `count` on; the next one's."""
    _, _, empty = ring
    SLOTS: gl.constexpr = empty.shape[0]
    for i in gl.static_range(BLOCKS):
        mbarrier.arrive(empty.index((count + i) % SLOTS), count=1)
    return count + BLOCKS


@gluon.jit
def produce(up_desc, gate_desc, down_desc, ups, downs, tiles, u, GATED: gl.constexpr):
    """Fills the rings of weights, in the order in which groups use them."""
    U: gl.constexpr = up_desc.block_shape[1]
    up = 0
    down = 0
    for _ in range(gl.program_id(0), tiles, gl.num_programs(0)):
        for hidden in range(0, u, U):
            up = fill(up_desc, 0, hidden, ups, up)
            if GATED:
                up = fill(gate_desc, 0, hidden, ups, up)
            down = fill(down_desc, hidden, 0, downs, down)


@gluon.jit
def fetch_rows(x_desc, y_s, full, tile, tiles, WHICH: gl.constexpr, GROUPS: gl.constexpr):
    """A group's rows of a tile, if there is such a tile."""
    M: gl.constexpr = y_s.shape[1]
    BYTES: gl.constexpr = M * y_s.shape[2] * 2
    if tile < tiles:
        mbarrier.expect(full.index(WHICH), BYTES)
        load_tile(x_desc, [(tile * GROUPS + WHICH) * M, 0], full.index(WHICH), y_s.index(WHICH))


@gluon.jit
def biases(b, column, like, GATED: gl.constexpr):
    """Where a product begins: at its biases, in every row, or, gated, at zero."""
    if GATED:
        return like
    else:
        return gl.broadcast(gl.load(b + column).to(gl.float32)[None, :], like)[0]


@gluon.jit
def up_product(y, h, ups, up, nothing, GATED: gl.constexpr):
    """A block before its activation, from h on, and its gate, if it has one, under way."""
    if GATED:
        w = take(ups, up)
        gate_w = take(ups, up + 1)
        h = warpgroup_mma(y, w, nothing, use_acc=False, is_async=True)
        return h, warpgroup_mma(y, gate_w, nothing, use_acc=False, is_async=True)
    else:
        h = warpgroup_mma(y, take(ups, up), h, is_async=True)
        return h, h


@gluon.jit
def activated(h, gate, LEFT: gl.constexpr, GATED: gl.constexpr):
    """A block as the next product's left operand."""
    if GATED:
        return gl.convert_layout((h * (gate * sigmoid(gate))).to(gl.bfloat16), LEFT)
    else:
        return gl.convert_layout(rectified(h), LEFT)


@gluon.jit
def transform(
    x_desc, scale, offset, up_b, down_b, out, source, y_s, x_full, ups, downs, rows, tiles, u,
    WHICH: gl.constexpr, GROUPS: gl.constexpr, U: gl.constexpr, GATED: gl.constexpr,
):  # fmt: skip
    """A group's M rows of each tile."""
    M: gl.constexpr = y_s.shape[1]
    C: gl.constexpr = y_s.shape[2]
    H: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, U, 16])
    OUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, C, 16])
    LEFT: gl.constexpr = gl.DotOperandLayout(0, OUT, 2)
    STORE: gl.constexpr = store_layout(M, C)
    UPS: gl.constexpr = 2 if GATED else 1  # a block
    y = y_s.index(WHICH)
    hidden = gl.arange(0, U, gl.SliceLayout(0, H))
    channel = gl.arange(0, C, gl.SliceLayout(0, OUT))
    no_h = gl.zeros([M, U], gl.float32, H)
    nothing = gl.zeros([M, C], gl.float32, OUT)
    up = 0
    down = 0
    turn = 0
    fetch_rows(x_desc, y_s, x_full, gl.program_id(0), tiles, WHICH, GROUPS)
    for tile in range(gl.program_id(0), tiles, gl.num_programs(0)):
        mbarrier.wait(x_full.index(WHICH), turn & 1)
        normalise(y, scale, offset)
        fence_async_shared()
        barrier()
        row = (tile * GROUPS + WHICH) * M + gl.arange(0, M, gl.SliceLayout(1, STORE))
        at = row.to(gl.int64)[:, None] * C + gl.arange(0, C, gl.SliceLayout(0, STORE))[None, :]
        inside = gl.broadcast((row < rows)[:, None], at)[0]
        update = biases(down_b, channel, nothing, GATED)
        if source is not None:  # perhaps x itself, and out: of these rows, which no other group touches
            update += gl.convert_layout(gl.load(source + at, mask=inside, other=0.0), OUT).to(gl.float32)
        update = warpgroup_mma_init(update)
        h, gate = up_product(y, biases(up_b, hidden, no_h, GATED), ups, up, no_h, GATED)
        h, gate = warpgroup_mma_wait(0, deps=[h, gate])
        up = release(ups, up, UPS)
        left = activated(h, gate, LEFT, GATED)
        for start in range(U, u, U):
            w = take(downs, down)
            h, gate = up_product(y, biases(up_b, start + hidden, no_h, GATED), ups, up, no_h, GATED)
            update = warpgroup_mma(left, w, update, is_async=True)
            h, gate, update = warpgroup_mma_wait(0, deps=[h, gate, update])
            update = warpgroup_mma_init(update)
            up = release(ups, up, UPS)
            down = release(downs, down, 1)
            left = activated(h, gate, LEFT, GATED)
        barrier()
        fetch_rows(x_desc, y_s, x_full, tile + gl.num_programs(0), tiles, WHICH, GROUPS)
        update = warpgroup_mma(left, take(downs, down), update, is_async=True)
        update = warpgroup_mma_wait(0, deps=[update])
        down = release(downs, down, 1)
        gl.store(out + at, gl.convert_layout(update.to(y.dtype), STORE), mask=inside)
        turn += 1


@gluon.jit(do_not_specialize=["rows", "tiles"])
def transition_kernel(
    x_desc, up_desc, gate_desc, down_desc, scale, offset, up_b, down_b, out, source, rows, tiles, u,
    GROUPS: gl.constexpr, UPS: gl.constexpr, DOWNS: gl.constexpr, REGISTERS: gl.constexpr, GATED: gl.constexpr,
):  # fmt: skip
    """out [N, c] of x [N, c], tiles of GROUPS * M rows."""
    M: gl.constexpr = x_desc.block_shape[0]
    C: gl.constexpr = x_desc.block_shape[1]
    U: gl.constexpr = up_desc.block_shape[1]
    gl.static_assert(GROUPS == 2)
    y_s = gl.allocate_shared_memory(x_desc.dtype, [GROUPS, M, C], x_desc.layout)
    x_full = gl.allocate_shared_memory(gl.int64, [GROUPS, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(GROUPS):
        mbarrier.init(x_full.index(i), count=1)
    ups = ring_of(up_desc, UPS, GROUPS)
    downs = ring_of(down_desc, DOWNS, GROUPS)
    fence_async_shared()
    barrier()
    gl.warp_specialize([
        (transform, (x_desc, scale, offset, up_b, down_b, out, source, y_s, x_full, ups, downs, rows, tiles, u, 0, GROUPS, U, GATED)),
        (transform, (x_desc, scale, offset, up_b, down_b, out, source, y_s, x_full, ups, downs, rows, tiles, u, 1, GROUPS, U, GATED)),
        (produce, (up_desc, gate_desc, down_desc, ups, downs, tiles, u, GATED)),
    ], [4, 1], [REGISTERS, 24])  # fmt: skip


def tiles_of(x: Tensor, *block: int) -> TensorDescriptor:
    return TensorDescriptor(x, list(x.shape), list(x.stride()), list(block), gl.NVMMASharedLayout(128, 16))


def forward(
    x: Tensor, scale: Tensor, offset: Tensor, down_w: Tensor, up_b: Tensor | None, down_b: Tensor | None, up_w: Tensor,
    gate_w: Tensor | None, out: Tensor, source: Tensor | None = None,
) -> None:  # fmt: skip
    """As triton_transition.forward, where `fits`; fills out [..., c], with `source` added where there is one."""
    c, u = up_w.shape
    gated, rows = gate_w is not None, x.numel() // c
    block, ups, downs = BLOCKS[c, gated]
    tiles = cdiv(rows, GROUPS * ROWS)
    programs = torch.cuda.get_device_properties(x.device).multi_processor_count
    transition_kernel[(min(tiles, programs),)](
        tiles_of(x.view(rows, c), ROWS, c), tiles_of(up_w, c, block), None if gate_w is None else tiles_of(gate_w, c, block),
        tiles_of(down_w, block, c), scale, offset, up_b, down_b, out, source, rows, tiles, u,
        GROUPS=GROUPS, UPS=ups, DOWNS=downs, REGISTERS=REGISTERS, GATED=gated, num_warps=4,
    )  # fmt: skip
