"""Rows of a state tensor with the mapped axis first, and copies of what does not lie in one piece. Shapes: [a0, a1, c] or [a0, c]."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor


def slices(total: int, rows: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of `rows` rows at a time; the last slice may be shorter."""
    for start in range(0, total, rows):
        yield start, min(start + rows, total)


def view(x: Tensor, axis: int, start: int, stop: int) -> Tensor:
    """Rows start..stop of `axis`, that axis first; shares x's memory."""
    part = x.narrow(axis, start, stop - start)
    return part if axis == 0 else part.transpose(0, 1)


def take(x: Tensor, axis: int, start: int, stop: int) -> Tensor:
    """The same, contiguous: a copy where the rows are columns of x."""
    return view(x, axis, start, stop).contiguous()


WORD = 8
"""Bytes of the elements that are copied, where that goes."""


def copy(target: Tensor, source: Tensor) -> None:
    """In words of 8 bytes where both consist of such: PyTorch's copies between what does not lie in one piece go element by element."""
    both = (target, source)
    if all(
        x.stride(-1) == 1 and all(n * x.element_size() % WORD == 0 for n in (x.shape[-1], x.storage_offset(), *x.stride()[:-1]))
        for x in both
    ):
        target, source = (x.view(torch.int64) for x in both)
    target.copy_(source)


def dense(x: Tensor) -> Tensor:
    """x, or a copy that lies in one piece."""
    if x.is_contiguous():
        return x
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    copy(out, x)
    return out


def stacked(parts: Sequence[Tensor]) -> Tensor | None:
    """[k, ...] of k tensors that lie alike and as far from each other, in their memory, so that one kernel does for all; None where they
    do not."""
    first, steps = parts[0], {b.storage_offset() - a.storage_offset() for a, b in pairwise(parts)}
    one = {(p.shape, p.stride(), p.untyped_storage().data_ptr()) for p in parts}
    if len(one) > 1 or len(steps) != 1 or min(steps) <= 0 or not first.numel():
        return None
    return first.as_strided((len(parts), *first.shape), (*steps, *first.stride()))


def leaf(x: Tensor) -> Tensor:
    """x as the start of a graph of its own."""
    return x.detach().requires_grad_(torch.is_grad_enabled())
