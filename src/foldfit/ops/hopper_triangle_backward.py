"""The backwards of hopper_triangle.py: those of triton_gated_linear.py and triton_triangle.py, the same mathematics.

A program is all of a multiprocessor: half of its registers hold what the parameters' gradients are sums of. The gradients of both
projections are made channels first, [q, P], P tokens at a time: so they are the left operand of the sums as they are, in registers, and, on
chip, that of the gradients of what was projected. Their own sums are products with ones, which cost less than adding.
Shapes: as there.
"""

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from foldfit.ops.hopper_triangle import (
    CHANNELS,
    TOKENS,
    WARPS,
    barrier,
    columns_of,
    fetch,
    fits,
    kept_of,
    normalise,
    normalise_columns,
    project,
    rings,
    rows_of,
    sigmoid,
    store_tile,
    weights,
)

__all__ = ["epilogue_backward", "fits", "gated_backward"]


__all__ = ["epilogue_backward", "fits", "gated_backward"]


@gluon.jit
def gradients(d, linear, gate, l_s, g_s, start: gl.constexpr, LEFT: gl.constexpr):
    """Of both projections of P tokens, [q, P]: on chip, and as left operands."""
    P: gl.constexpr = d.shape[1]
    gate = sigmoid(gate)
    d *= gate
    d_gate = d * linear * (1 - gate)
    half_d = d.to(l_s.dtype)
    half_gate = d_gate.to(l_s.dtype)
    l_s.slice(start, P, dim=1).store(half_d)
    g_s.slice(start, P, dim=1).store(half_gate)
    return gl.convert_layout(half_d, LEFT), gl.convert_layout(half_gate, LEFT)


@gluon.jit
def pairwise(a, b, c, d):
    return a + c, b + d


@gluon.jit
def norm_gradient(d, tile, inverse, H: gl.constexpr):
    """From the gradient of hat [T, C], which `tile` holds, to that of what was normalised."""
    C: gl.constexpr = tile.shape[1]
    hat = tile.load(H).to(gl.float32)
    inverse = gl.convert_layout(inverse, gl.SliceLayout(1, H))
    mean, slope = gl.reduce((d, d * hat), 1, pairwise)
    return inverse[:, None] * (d - (mean * (1.0 / C))[:, None] - hat * (slope * (1.0 / C))[:, None])


@gluon.jit
def store_sums(parts, m, s, C: gl.constexpr, W: gl.constexpr, S: gl.constexpr):
    """M, here [q, p], and S, [q, 8] all alike, at `parts` as [p + 1, q]."""
    q = gl.arange(0, C, gl.SliceLayout(1, W))
    p = gl.arange(0, C, gl.SliceLayout(0, W))
    gl.store(parts + p[None, :] * C + q[:, None], m)
    q = gl.arange(0, C, gl.SliceLayout(1, S))
    gl.store(parts + C * C + q, gl.max(s, 1))


@gluon.jit
def ones_of(dtype: gl.constexpr, P: gl.constexpr, WARPS: gl.constexpr):
    """[P, 8]"""
    MEMORY: gl.constexpr = gl.BlockedLayout([1, 1], [1, 32], [WARPS, 1], [1, 0])
    return gl.allocate_shared_memory(dtype, [8, P], gl.NVMMASharedLayout(2 * P, 16), gl.full([8, P], 1.0, dtype, MEMORY)).permute((1, 0))


@gluon.jit
def gated_backward_kernel(
    x_desc, d_desc, d_x_desc, mask, f, bias, parts, rows, n, mask_r, mask_n, T: gl.constexpr, C: gl.constexpr, WARPS: gl.constexpr
):  # fmt: skip
    """d_x [r, n, c] and parts [programs, 2, c + 1, c] from d_out [c, r, n] and x [r, n, c]."""
    dtype: gl.constexpr = x_desc.dtype
    P: gl.constexpr = T // 2
    Z: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, P, 16])  # [q, P]
    W: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, C, 16])  # [q, p]
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, 8, 16])  # [q, 8]
    H: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, WARPS // 4], [16, 4 * C // WARPS, 16])  # [T, p]
    LEFT: gl.constexpr = gl.DotOperandLayout(0, W, 2)
    x_s = gl.allocate_shared_memory(dtype, [2, 1, T, C], x_desc.layout)
    d_s = gl.allocate_shared_memory(dtype, [2, C, 1, T], d_desc.layout)
    d_x_s = gl.allocate_shared_memory(dtype, [1, T, C], d_x_desc.layout)
    l_s = gl.allocate_shared_memory(dtype, [C, T], gl.NVMMASharedLayout(128, 16))
    g_s = gl.allocate_shared_memory(dtype, [C, T], gl.NVMMASharedLayout(128, 16))
    w_s = weights(f, dtype, C, WARPS)
    gate_s = weights(f + C * C, dtype, C, WARPS)
    ones = ones_of(dtype, P, WARPS)
    full = rings(2)
    q = gl.arange(0, C, gl.SliceLayout(1, Z))
    b_bias = gl.load(bias + q)[:, None]
    b_gate_bias = gl.load(bias + C + q)[:, None]
    of_w = gl.zeros([C, C], gl.float32, W)
    of_gate_w = gl.zeros([C, C], gl.float32, W)
    of_b = gl.zeros([C, 8], gl.float32, S)
    of_gate_b = gl.zeros([C, 8], gl.float32, S)
    tiles = gl.cdiv(n, T)
    last = rows * tiles
    step = gl.num_programs(0)
    fetch(((x_desc, x_s),), ((d_desc, d_s),), full, 0, gl.program_id(0), last, tiles)
    count = 0
    for tile in range(gl.program_id(0), last, step):
        slot = count % 2
        row = tile // tiles
        token = tile % tiles * T
        barrier()
        fetch(((x_desc, x_s),), ((d_desc, d_s),), full, slot ^ 1, tile + step, last, tiles)
        hat = x_s.index(slot).reshape([T, C])
        d_tile = d_s.index(slot).reshape([C, T])
        mbarrier.wait(full.index(slot), count // 2 & 1)
        inverse = normalise(hat, WARPS)
        fence_async_shared()
        barrier()
        for start in gl.static_range(0, T, P):
            some = hat.slice(start, P)
            kept = kept_of(mask, row, token + start, n, mask_r, mask_n, P, Z)
            linear, gate = project(w_s, gate_s, some.permute((1, 0)), some.permute((1, 0)), Z)
            linear, gate, of_w, of_gate_w, of_b, of_gate_b = warpgroup_mma_wait(0, deps=[linear, gate, of_w, of_gate_w, of_b, of_gate_b])
            d = d_tile.slice(start, P, dim=1).load(Z).to(gl.float32) * kept.to(gl.float32)[None, :]
            d, d_gate = gradients(d, linear + b_bias, gate + b_gate_bias, l_s, g_s, start, LEFT)
            of_b = warpgroup_mma(d, ones, of_b, is_async=True)
            of_gate_b = warpgroup_mma(d_gate, ones, of_gate_b, is_async=True)
            of_w = warpgroup_mma(d, some, of_w, is_async=True)
            of_gate_w = warpgroup_mma(d_gate, some, of_gate_w, is_async=True)
        fence_async_shared()
        barrier()
        d_hat = warpgroup_mma(l_s.permute((1, 0)), w_s.permute((1, 0)), gl.zeros([T, C], gl.float32, H), use_acc=False, is_async=True)
        d_hat = warpgroup_mma(g_s.permute((1, 0)), gate_s.permute((1, 0)), d_hat, is_async=True)
        d_hat, of_w, of_gate_w, of_b, of_gate_b = warpgroup_mma_wait(0, deps=[d_hat, of_w, of_gate_w, of_b, of_gate_b])
        d_x = norm_gradient(d_hat, hat, inverse, H)
        tma.store_wait(0)
        barrier()
        d_x_s.reshape([T, C]).store(d_x.to(dtype))
        fence_async_shared()
        barrier()
        store_tile(d_x_desc, [row, token, 0], d_x_s)
        count += 1
    tma.store_wait(0)
    parts += gl.program_id(0) * (2 * (C + 1) * C)
    store_sums(parts, of_w, of_b, C, W, S)
    store_sums(parts + (C + 1) * C, of_gate_w, of_gate_b, C, W, S)


@gluon.jit
def epilogue_backward_kernel(
    x_desc, o_desc, d_desc, d_x_desc, d_o_desc, f, bias, parts, rows, n, T: gl.constexpr, C: gl.constexpr, WARPS: gl.constexpr
):  # fmt: skip
    """d_o [c, r, n], d_x [r, n, c] and parts [programs, 2, c + 1, c] from d_out, x [r, n, c] and o [c, r, n]."""
    dtype: gl.constexpr = x_desc.dtype
    P: gl.constexpr = T // 2
    Z: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, P, 16])  # [q, P]
    W: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, C, 16])  # [q, p]
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, 8, 16])  # [q, 8]
    H: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, WARPS // 4], [16, 4 * C // WARPS, 16])  # [T, p]
    LEFT: gl.constexpr = gl.DotOperandLayout(0, W, 2)
    x_s = gl.allocate_shared_memory(dtype, [2, 1, T, C], x_desc.layout)
    o_s = gl.allocate_shared_memory(dtype, [2, C, 1, T], o_desc.layout)
    d_s = gl.allocate_shared_memory(dtype, [2, 1, T, C], d_desc.layout)
    l_s = gl.allocate_shared_memory(dtype, [C, T], gl.NVMMASharedLayout(128, 16))
    g_s = gl.allocate_shared_memory(dtype, [C, T], gl.NVMMASharedLayout(128, 16))
    w_s = weights(f, dtype, C, WARPS)
    gate_s = weights(f + C * C, dtype, C, WARPS)
    ones = ones_of(dtype, P, WARPS)
    full = rings(2)
    q = gl.arange(0, C, gl.SliceLayout(1, Z))
    b_bias = gl.load(bias + q)[:, None]
    b_gate_bias = gl.load(bias + C + q)[:, None]
    of_w = gl.zeros([C, C], gl.float32, W)
    of_gate_w = gl.zeros([C, C], gl.float32, W)
    of_b = gl.zeros([C, 8], gl.float32, S)
    of_gate_b = gl.zeros([C, 8], gl.float32, S)
    nothing = gl.zeros([T, C], gl.float32, H)
    tiles = gl.cdiv(n, T)
    last = rows * tiles
    step = gl.num_programs(0)
    fetch(((x_desc, x_s), (d_desc, d_s)), ((o_desc, o_s),), full, 0, gl.program_id(0), last, tiles)
    count = 0
    for tile in range(gl.program_id(0), last, step):
        slot = count % 2
        x_hat = x_s.index(slot).reshape([T, C])
        o_hat = o_s.index(slot).reshape([C, T])
        d_tile = d_s.index(slot).reshape([T, C])
        mbarrier.wait(full.index(slot), count // 2 & 1)
        x_inverse = normalise(x_hat, WARPS)
        o_inverse = normalise_columns(o_hat, WARPS)
        fence_async_shared()
        tma.store_wait(0)  # out of the slot that is filled next
        barrier()
        fetch(((x_desc, x_s), (d_desc, d_s)), ((o_desc, o_s),), full, slot ^ 1, tile + step, last, tiles)
        for start in gl.static_range(0, T, P):
            x_some = x_hat.slice(start, P)
            o_some = o_hat.slice(start, P, dim=1)
            linear, gate = project(w_s, gate_s, o_some, x_some.permute((1, 0)), Z)
            linear, gate, of_w, of_gate_w, of_b, of_gate_b = warpgroup_mma_wait(0, deps=[linear, gate, of_w, of_gate_w, of_b, of_gate_b])
            d = d_tile.slice(start, P).permute((1, 0)).load(Z).to(gl.float32)
            d, d_gate = gradients(d, linear + b_bias, gate + b_gate_bias, l_s, g_s, start, LEFT)
            of_b = warpgroup_mma(d, ones, of_b, is_async=True)
            of_gate_b = warpgroup_mma(d_gate, ones, of_gate_b, is_async=True)
            of_w = warpgroup_mma(d, o_some.permute((1, 0)), of_w, is_async=True)
            of_gate_w = warpgroup_mma(d_gate, x_some, of_gate_w, is_async=True)
        fence_async_shared()
        barrier()
        d_hat = warpgroup_mma(l_s.permute((1, 0)), w_s.permute((1, 0)), nothing, use_acc=False, is_async=True)
        d_hat, of_w, of_gate_w, of_b, of_gate_b = warpgroup_mma_wait(0, deps=[d_hat, of_w, of_gate_w, of_b, of_gate_b])
        d_o = norm_gradient(d_hat, o_hat.permute((1, 0)), o_inverse, H)
        d_hat = warpgroup_mma(g_s.permute((1, 0)), gate_s.permute((1, 0)), nothing, use_acc=False, is_async=True)
        barrier()
        o_hat.permute((1, 0)).store(d_o.to(dtype))
        d_hat = warpgroup_mma_wait(0, deps=[d_hat])
        d_x = norm_gradient(d_hat, x_hat, x_inverse, H)
        barrier()
        x_hat.store(d_x.to(dtype))
        fence_async_shared()
        barrier()
        store_tile(d_o_desc, [0, tile // tiles, tile % tiles * T], o_s.index(slot))
        store_tile(d_x_desc, [tile // tiles, tile % tiles * T, 0], x_s.index(slot))
        count += 1
    tma.store_wait(0)
    parts += gl.program_id(0) * (2 * (C + 1) * C)
    store_sums(parts, of_w, of_b, C, W, S)
    store_sums(parts + (C + 1) * C, of_gate_w, of_gate_b, C, W, S)


def gated_backward(d_out: Tensor, x: Tensor, mask: Tensor, f: Tensor, bias: Tensor, d_x: Tensor, parts: Tensor) -> None:
    """d_out [u, r, n], x [r, n, c]; fills d_x and parts."""
    gated_backward_kernel[(len(parts),)](
        rows_of(x), columns_of(d_out), rows_of(d_x), mask, f, bias, parts, *x.shape[:2], *mask.stride(),
        T=TOKENS, C=CHANNELS, WARPS=WARPS, num_warps=WARPS,
    )  # fmt: skip


def epilogue_backward(d_out: Tensor, o: Tensor, x: Tensor, f: Tensor, bias: Tensor, d_o: Tensor, d_x: Tensor, parts: Tensor) -> None:
    """d_out, x [r, n, c], o [u, r, n]; fills d_o, d_x and parts."""
    epilogue_backward_kernel[(len(parts),)](
        rows_of(x), columns_of(o), rows_of(d_out), rows_of(d_x), columns_of(d_o), f, bias, parts,
        *x.shape[:2], T=TOKENS, C=CHANNELS, WARPS=WARPS, num_warps=WARPS,
    )  # fmt: skip
