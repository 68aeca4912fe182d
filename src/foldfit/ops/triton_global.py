"""Global column attention in two passes over the rows: no keys, values, logits or gates in memory.

AF2 Suppl. Alg. 19. With one key head, q . (y key_w) = y . (key_w q) and sum(w y) value_w = sum(w y value_w): a row attends to its own
normalised elements by `keys` [h, c], and `values` [h, c] are its weighted sums. The second pass gates what came of them.
Shapes: r rows, n other axis, c channels, h heads, d head dim, e = h d. In kernels: T elements of a tile; C, H, D, E padded.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from foldfit.ops.grids import cdiv, power_of_2
from foldfit.ops.triton_attention import dot, precision_of
from foldfit.ops.triton_gated_linear import padded
from foldfit.ops.triton_residual import landing, put
from foldfit.ops.triton_transition import norm_rows

WIDEST = 128
"""Channels, and heads times head dim, that a program holds at once."""
PADDED = tl.constexpr(-1e9)
"""What the logit of a padded element gets added."""


@triton.jit
def heads_of(w, c, h, d, C: tl.constexpr, H: tl.constexpr, D: tl.constexpr):
    """w [c, h, d], padded, in fp32."""
    channel = tl.arange(0, C)[:, None, None]
    head = tl.arange(0, H)[None, :, None]
    dim = tl.arange(0, D)[None, None, :]
    return tl.load(w + (channel * h + head) * d + dim, mask=(channel < c) & (head < h) & (dim < d), other=0.0).to(tl.float32)


@triton.jit
def one_head(w, c, d, C: tl.constexpr, D: tl.constexpr):
    """w [c, d], padded, in fp32."""
    channel = tl.arange(0, C)[:, None]
    dim = tl.arange(0, D)[None, :]
    return tl.load(w + channel * d + dim, mask=(channel < c) & (dim < d), other=0.0).to(tl.float32)


@triton.jit
def logits_of(b_y, b_keys, real, count, token, n, PRECISION: tl.constexpr):
    """Of elements b_y [T, C] by keys [H, C]: [H, T]. A row without real elements attends to all of them, as the reference's does."""
    logits = dot(b_keys, tl.trans(b_y), None, PRECISION) + tl.where(real == 0, tl.where(count > 0, PADDED, 0.0), 0.0)[None, :]
    return tl.where((token < n)[None, :], logits, float("-inf"))


@triton.jit
def attend_kernel(
    x, scale, offset, query_w, key_w, value_w, mask, means, counts, keys, values, o, lse, n, c, h, d, mask_r, mask_n,
    T: tl.constexpr, C: tl.constexpr, H: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program a row: means [r, c], counts [r], keys, values [r, h, c], o [r, h, d], lse [r, h], all in fp32."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, C)
    head = tl.arange(0, H)
    dim = tl.arange(0, D)
    total = tl.zeros([T, C], tl.float32)  # over tiles first: a sum over a tile's elements goes from thread to thread
    count = 0.0
    for start in range(0, n, T):
        token = start + tl.arange(0, T)
        real = tl.load(mask + row * mask_r + token.to(tl.int64) * mask_n, mask=token < n, other=0.0).to(tl.float32)
        b_y = norm_rows(x + row * n * c, scale, offset, token, n, c, C)
        total += b_y.to(tl.float32) * real[:, None]
        count += tl.sum(real)
    mean = tl.sum(total, 0) / (count + 1e-10)
    tl.store(counts + row, count)
    tl.store(means + row * c + channel, mean, mask=channel < c)
    # [H, D], [H, C]
    query = tl.sum(mean[:, None, None] * heads_of(query_w, c, h, d, C, H, D), 0) / tl.sqrt(tl.cast(d, tl.float32))
    b_keys = tl.sum(query[:, None, :] * one_head(key_w, c, d, C, D)[None, :, :], 2)
    at = (row * h + head)[:, None] * c + channel[None, :]
    inside = (head < h)[:, None] & (channel < c)[None, :]
    tl.store(keys + at, b_keys, mask=inside)
    b_keys = b_keys.to(x.dtype.element_ty)
    largest = tl.full([H], float("-inf"), tl.float32)
    sum = tl.zeros([H], tl.float32)
    weighted = tl.zeros([H, C], tl.float32)
    for start in range(0, n, T):
        token = start + tl.arange(0, T)
        real = tl.load(mask + row * mask_r + token.to(tl.int64) * mask_n, mask=token < n, other=0.0).to(tl.float32)
        b_y = norm_rows(x + row * n * c, scale, offset, token, n, c, C)
        # [H, T]
        logits = logits_of(b_y, b_keys, real, count, token, n, PRECISION)
        new = tl.maximum(largest, tl.max(logits, 1))
        weights = tl.exp(logits - new[:, None])
        shrink = tl.exp(largest - new)
        sum = sum * shrink + tl.sum(weights, 1)
        weighted = dot(weights.to(b_y.dtype), b_y, weighted * shrink[:, None], PRECISION)
        largest = new
    weighted /= sum[:, None]
    tl.store(values + at, weighted, mask=inside)
    tl.store(lse + row * h + head, largest + tl.log(sum), mask=head < h)
    b_o = tl.sum(weighted[:, :, None] * one_head(value_w, c, d, C, D)[None, :, :], 1)
    tl.store(o + (row * h + head)[:, None] * d + dim[None, :], b_o, mask=(head < h)[:, None] & (dim < d)[None, :])


@triton.jit
def gate_kernel(
    x, scale, offset, gating_w, gating_b, output_w, output_b, o, n, c, e,
    target, source, factors, target_r, target_n, source_r, source_n, factors_r, factors_n,
    T: tl.constexpr, C: tl.constexpr, E: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """target [r, n, c], as `put` has it, of the update (sigmoid(y gating_w + gating_b) * o) output_w + output_b, o [r, e]."""
    tiles = tl.cdiv(n, T)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    token = tl.program_id(0) % tiles * T + tl.arange(0, T)
    channel = tl.arange(0, C)
    width = tl.arange(0, E)
    b_y = norm_rows(x + row * n * c, scale, offset, token, n, c, C)
    gated = gate_of(b_y, gating_w, gating_b, c, e, C, E, PRECISION)
    gated *= tl.load(o + row * e + width, mask=width < e, other=0.0)[None, :]
    at_w = width[:, None] * c + channel[None, :]
    b_w = tl.load(output_w + at_w, mask=(width < e)[:, None] & (channel < c)[None, :], other=0.0)
    update = dot(gated.to(b_y.dtype), b_w, None, PRECISION)
    update += tl.load(output_b + channel, mask=channel < c, other=0.0).to(tl.float32)[None, :]
    inside = (token < n)[:, None] & (channel < c)[None, :]
    put(
        update, row, token.to(tl.int64), channel, inside,
        target, source, factors, target_r, target_n, source_r, source_n, factors_r, factors_n,
    )  # fmt: skip


@triton.jit
def gate_of(b_y, gating_w, gating_b, c, e, C: tl.constexpr, E: tl.constexpr, PRECISION: tl.constexpr):
    """sigmoid(y gating_w + gating_b) of a tile [T, C]: [T, E]."""
    channel = tl.arange(0, C)
    width = tl.arange(0, E)
    b_w = tl.load(gating_w + channel[:, None] * e + width[None, :], mask=(channel < c)[:, None] & (width < e)[None, :], other=0.0)
    return tl.sigmoid(dot(b_y, b_w, None, PRECISION) + tl.load(gating_b + width, mask=width < e, other=0.0).to(tl.float32)[None, :])


TILES = {"attend": (64, 4), "gate": (64, 4), "rows": (32, 4), "elements": (64, 4)}
"""Kernel -> elements of a tile, and its warps; in half precision. The best of five measured on an H100, at most 5 % apart."""


def tiling(kernel: str, dtype: torch.dtype) -> dict[str, int]:
    tokens, warps = TILES[kernel]
    return {"T": 32 if dtype == torch.float32 else tokens, "num_warps": warps}


def check(x: Tensor, query_w: Tensor) -> None:
    (c, h, d), (r, n) = query_w.shape, x.shape[:2]
    if max(c, h * d) > WIDEST:
        raise NotImplementedError(f"global attention of at most {WIDEST} channels, all heads together. Got {c}, and {h} heads of {d}.")
    if r * n >= 2**31:
        raise NotImplementedError(f"{list(x.shape)} is more than a grid holds. Use fewer rows.")


def forward(
    x: Tensor, scale: Tensor, offset: Tensor, query_w: Tensor, key_w: Tensor, value_w: Tensor, gating_w: Tensor, gating_b: Tensor,
    output_w: Tensor, output_b: Tensor, mask: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The update, or the target that it was added to, and what a backward needs of each row: means, counts, keys, values, o, lse."""
    check(x, query_w)
    (r, n, c), (_, h, d) = x.shape, query_w.shape
    x, precision = x.contiguous(), precision_of(x.dtype)
    means, counts, keys, values, o, lse = (
        torch.empty(r, *shape, dtype=torch.float32, device=x.device) for shape in ((c,), (), (h, c), (h, c), (h, d), (h,))
    )
    attend_kernel[(r,)](
        x, scale, offset, query_w, key_w, value_w, mask, means, counts, keys, values, o, lse, n, c, h, d, *mask.stride(),
        C=padded(c), H=padded(h), D=power_of_2(d), PRECISION=precision, **tiling("attend", x.dtype),
    )  # fmt: skip
    out, place = landing(x, r, n, c)
    tile = tiling("gate", x.dtype)
    gate_kernel[(r * cdiv(n, tile["T"]),)](
        x, scale, offset, gating_w, gating_b, output_w, output_b, o, n, c, h * d, *place,
        C=padded(c), E=padded(h * d), PRECISION=precision, **tile,
    )  # fmt: skip
    return out, means, counts, keys, values, o, lse
