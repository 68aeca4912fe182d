"""The hidden layer's gradient in the ReLU's backward (triton_transition_backward.hidden_kernel) for NVIDIA Hopper: the same mathematics.

Memory's speed bounds it: each element of the hidden layer is read and written for 2 c operations. So a program keeps U columns of the
weights on chip and goes through its share of the rows, whose tiles come by TMA two ahead; a tile of the hidden layer becomes its gradient
where it lies, and goes from there.
Shapes: as there.
"""

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from foldfit.ops.hopper_transition import tiles_of
from foldfit.ops.hopper_triangle import barrier, load_tile, rings, store_tile

CHANNELS, COLUMNS, ROWS, STAGES, WARPS = 256, 128, 64, 3, 4
"""Of d_out; of a program; of a tile; tiles on chip."""
LEAST = 128
"""Rows of a share: the sub-module promises no more sums than one row of them for so many (stacks/triton_transition_kernels.py)."""


def fits(d_out: Tensor, hidden: Tensor, down_w: Tensor) -> bool:
    """Whether this kernel, once on Hopper, is for them: bf16, these channels, whole programs, what TMA can address."""
    every = d_out, hidden, down_w
    if any(x.dtype != torch.bfloat16 or x.data_ptr() % 16 or not x.is_contiguous() for x in every):
        return False
    return down_w.shape[1] == CHANNELS and down_w.shape[0] % COLUMNS == 0 and len(d_out) > 0


@gluon.jit
def fetch(d_out_desc, hidden_desc, d_s, h_s, full, slot, tile, tiles, column):
    T: gl.constexpr = h_s.shape[1]
    BYTES: gl.constexpr = T * (d_s.shape[2] + h_s.shape[2]) * 2
    if tile < tiles:
        mbarrier.expect(full.index(slot), BYTES)
        load_tile(d_out_desc, [tile * T, 0], full.index(slot), d_s.index(slot))
        load_tile(hidden_desc, [tile * T, column], full.index(slot), h_s.index(slot))


@gluon.jit(do_not_specialize=["rows"])
def hidden_kernel(d_out_desc, down_desc, hidden_desc, up_desc, sums, rows, u, STAGES: gl.constexpr, WARPS: gl.constexpr):
    """d = d_out down_w^T where `hidden` is above zero, [N, u], to `up`; its column sums to sums [shares of the rows, u] in fp32."""
    dtype: gl.constexpr = d_out_desc.dtype
    T: gl.constexpr = d_out_desc.block_shape[0]
    C: gl.constexpr = d_out_desc.block_shape[1]
    U: gl.constexpr = down_desc.block_shape[0]
    Z: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, WARPS // 4], [16, 4 * U // WARPS, 16])
    w_s = gl.allocate_shared_memory(dtype, [U, C], down_desc.layout)
    d_s = gl.allocate_shared_memory(dtype, [STAGES, T, C], d_out_desc.layout)
    h_s = gl.allocate_shared_memory(dtype, [STAGES, T, U], hidden_desc.layout)
    full = rings(STAGES + 1)
    across = u // U
    column = gl.program_id(0) % across * U
    share = gl.program_id(0) // across
    step = gl.num_programs(0) // across
    tiles = gl.cdiv(rows, T)
    mbarrier.expect(full.index(STAGES), U * C * 2)
    load_tile(down_desc, [column, 0], full.index(STAGES), w_s)
    for i in gl.static_range(STAGES - 1):
        fetch(d_out_desc, hidden_desc, d_s, h_s, full, i, share + i * step, tiles, column)
    mbarrier.wait(full.index(STAGES), 0)
    nothing = gl.zeros([T, U], gl.float32, Z)
    total = nothing
    count = 0
    for tile in range(share, tiles, step):
        slot = count % STAGES
        mbarrier.wait(full.index(slot), count // STAGES & 1)
        d = warpgroup_mma(d_s.index(slot), w_s.permute((1, 0)), nothing, use_acc=False, is_async=True)
        tma.store_wait(0)  # out of the slot that is filled next
        barrier()
        fetch(d_out_desc, hidden_desc, d_s, h_s, full, (count + STAGES - 1) % STAGES, tile + (STAGES - 1) * step, tiles, column)
        d = warpgroup_mma_wait(0, deps=[d])
        d = gl.where(h_s.index(slot).load(Z).to(gl.float32) > 0, d, 0.0)
        total += d
        h_s.index(slot).store(d.to(dtype))
        fence_async_shared()
        barrier()
        store_tile(up_desc, [tile * T, column], h_s.index(slot))
        count += 1
    tma.store_wait(0)
    gl.store(sums + share * u + column + gl.arange(0, U, gl.SliceLayout(0, Z)), gl.sum(total, 0))


def shares_of(rows: int, u: int, processors: int) -> int:
    """How many shares of the rows have a program each, of every column: as many as run at once."""
    return max(1, min(processors // (u // COLUMNS), rows // LEAST))


def hidden_gradient(d_out: Tensor, down_w: Tensor, hidden: Tensor, up: Tensor) -> Tensor:
    """d_out [N, c], hidden [N, u]; fills up [N, u], and returns its column sums, of shares of the rows: [shares, u] in fp32."""
    rows, (u, c) = len(d_out), down_w.shape
    shares = shares_of(rows, u, torch.cuda.get_device_properties(d_out.device).multi_processor_count)
    sums = torch.empty(shares, u, dtype=torch.float32, device=d_out.device)
    hidden_kernel[(shares * (u // COLUMNS),)](
        tiles_of(d_out, ROWS, c), tiles_of(down_w, COLUMNS, c), tiles_of(hidden, ROWS, COLUMNS), tiles_of(up, ROWS, COLUMNS),
        sums, rows, u, STAGES=STAGES, WARPS=WARPS, num_warps=WARPS,
    )  # fmt: skip
    return sums
