"""A sub-module over rows and columns: what all rows share comes in pieces, each of which makes its columns of the update.

Every slice of rows sees all pieces, so that they go around once a slice: all ranks run as many slices, some perhaps without rows.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from foldfit.model import SubModule
from foldfit.ops.onto import onto
from foldfit.ops.unread import unread
from foldfit.runtime.parameters import Gradients, leaves_of
from foldfit.runtime.ring import travel
from foldfit.runtime.rows import dense, leaf, view

if TYPE_CHECKING:
    from foldfit.runtime.apply import Call, State

Tensors = tuple[Tensor, ...]


def row_slices(call: "Call", length: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of this rank's slices, as many as the rank with the most rows has."""
    for start in range(0, -(-call.total // call.ranks.size), call.choice.rows):
        yield min(start, length), min(start + call.choice.rows, length)


def columns(call: "Call", x: Tensors, start: int, stop: int) -> Tensors:
    """Of the rows x, where `finish` reads them; as `Call.rows`, a view or a copy."""
    spec = call.module.spec
    if spec.reads != (spec.writes,):
        return ()
    parts = (part[:, start:stop] for part in x)
    return tuple(leaf(part if spec.strided(call.choice.kernel, "update") else part.contiguous()) for part in parts)


def at(x: Tensor, axis: int, rows: tuple[int, int], start: int, stop: int) -> Tensor:
    """Columns start..stop of these rows, the mapped axis first; shares x's memory."""
    return view(x, axis, *rows)[:, start:stop]


def drop_at(call: "Call", rows: tuple[int, int], start: int, stop: int) -> Tensor | None:
    drop = call.drop_rows(*rows)
    return drop if drop is None or drop.shape[1] == 1 else drop[:, start:stop]


def forward(call: "Call", module: SubModule, own: Tensors, state: "State", target: Tensor, before: Tensor, sample: int) -> None:
    """`target` is `before` with the update of `state`, also in place: a piece reads only its own columns, which no earlier one has
    written."""
    spec, ops = call.module.spec, call.ops
    name, axis = spec.reads[0]
    source, mask = state[name][sample], call.masks[name][sample]
    for rows in row_slices(call, source.shape[axis]):
        x = (call.rows("update", source, axis, *rows),)
        prepared: list[Tensors] = []

        def visit(start: int, stop: int, shared: Tensors, rows=rows, x=x, prepared=prepared) -> Tensors:
            if rows[0] < rows[1] and not prepared:  # not before: the next piece is on its way by now
                prepared.append(module.prepare(x, call.mask_rows("update", mask, axis, *rows), ops))
            if prepared and start < stop:
                new, old = (at(tensor[sample], spec.writes[1], rows, start, stop) for tensor in (target, before))
                with onto(new, old, drop_at(call, rows, start, stop)) as residual:
                    residual.settle(module.finish(columns(call, x, start, stop), prepared[0], shared, ops), ops.add)
            return ()

        travel(call.ranks, own, call.total, call.choice.piece_rows, visit)
        del x, prepared, visit


def backward(
    call: "Call", module: SubModule, own: Tensors, state: "State", sample: int, grads: "State", gradients: Gradients
) -> list[Tensor]:
    """Into `grads`, in place as forward, and `gradients`. Returns the gradient of what this rank shares, of all ranks."""
    d_own = [torch.zeros_like(x) for x in own if x.requires_grad]
    first = call.ranks.own(call.total)[0]

    def home(start: int, stop: int, totals: Tensors) -> None:
        for d, total in zip(d_own, totals, strict=True):
            d[start - first : stop - first] += total

    name, axis = call.module.spec.reads[0]
    for rows in reversed(list(row_slices(call, state[name].shape[1 + axis]))):
        work = Backward(call, module, rows, state, sample, grads, gradients)
        travel(call.ranks, tuple(x.detach() for x in own), call.total, call.choice.piece_rows, work.visit, home)
        work.end()
        del work
    return d_own


class Backward:
    """Of one slice of rows: their preparation recorded once, each piece recorded and gone back through when it comes."""

    def __init__(
        self, call: "Call", module: SubModule, rows: tuple[int, int], state: "State", sample: int, grads: "State", gradients: Gradients
    ) -> None:
        self.call, self.module, self.rows, self.gradients = call, module, rows, gradients
        self.spec, self.ops = call.module.spec, call.ops
        name, axis = self.spec.reads[0]
        self.read, self.written = (grads[tensor][sample] for tensor in (name, self.spec.writes[0]))
        with torch.enable_grad():
            self.x = (leaf(call.rows("update", state[name][sample], axis, *rows)),)
        self.mask = call.mask_rows("update", call.masks[name][sample], axis, *rows)
        self.edges: list[GradientEdge] = []
        self.prepared: Tensors = ()
        self.d_prepared: list[Tensor] = []

    def prepare(self) -> None:
        n = len(self.spec.prepared)
        with torch.enable_grad():
            out = self.module.prepare(self.x, self.mask, self.ops)
        self.edges = [get_gradient_edge(p) for p in out[:n]]
        self.prepared = tuple(p.detach().requires_grad_(i < n) for i, p in enumerate(out))

    def visit(self, start: int, stop: int, shared: Tensors) -> Tensors:
        n = len(shared) - self.spec.shared_masks
        if self.rows[0] == self.rows[1] or start == stop:
            return tuple(torch.zeros_like(s) for s in shared[:n])
        if not self.prepared:  # not before: the next piece is on its way by now
            self.prepare()
        with torch.enable_grad():
            x = columns(self.call, self.x, start, stop)
            shared = tuple(s.detach().requires_grad_(i < n) for i, s in enumerate(shared))
            with unread():
                edge = get_gradient_edge(self.module.finish(x, self.prepared, shared, self.ops))
        g = self.ops.packed(at(self.written, self.spec.writes[1], self.rows, start, stop), drop_at(self.call, self.rows, start, stop))
        prepared = self.prepared[: len(self.edges)]
        d = self.differentiate([edge], [*x, *prepared, *shared[:n]], [g])
        for part in d[: len(x)]:
            read = at(self.read, self.spec.reads[0][1], self.rows, start, stop)
            self.ops.add(read, read, part, None)
        self.d_prepared = self.d_prepared or [torch.zeros_like(p) for p in prepared]
        for total, part in zip(self.d_prepared, d[len(x) :], strict=False):
            total += part
        return tuple(dense(part) for part in d[len(x) + len(prepared) :])

    def end(self) -> None:
        if self.d_prepared:
            (d,) = self.differentiate(self.edges, self.x, self.d_prepared)
            read = view(self.read, self.spec.reads[0][1], *self.rows)
            self.ops.add(read, read, d, None)

    def differentiate(self, results: list, wanted: "list[Tensor] | Tensors", grads: list[Tensor]) -> Tensors:
        """The gradients of `wanted`; those of the parameters go to `gradients`."""
        d = torch.autograd.grad(results, [*wanted, *leaves_of(self.module)], grads, allow_unused=True)
        self.gradients.add(self.call.module, d[len(wanted) :])
        return d[: len(wanted)]
