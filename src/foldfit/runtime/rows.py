"""Rows of a state tensor with the mapped axis first. Shapes: [a0, a1, c] or [a0, c]."""

from collections.abc import Iterator

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


def leaf(x: Tensor) -> Tensor:
    """x as the start of a graph of its own."""
    return x.detach().requires_grad_(torch.is_grad_enabled())
