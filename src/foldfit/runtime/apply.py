"""Applies one sub-module to the state by a choice: the only place that knows of slices, and of keeping or recomputing.

State tensors have the samples first: [B, a0, a1, c] or [B, a0, c]. A sample is worked on at a time: a batch is more rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from foldfit.model import SubModule
from foldfit.ops import KERNELS, Ops
from foldfit.ops.onto import onto
from foldfit.ops.unread import unread
from foldfit.plans import Choice
from foldfit.runtime import channels, pieces
from foldfit.runtime.parameters import Gradients, bound, leaves_of
from foldfit.runtime.ranks import ALONE, Ranks
from foldfit.runtime.rows import copy, dense, leaf, slices, take, view
from foldfit.runtime.windows import Away, windows
from foldfit.stacks.spec import Axis

State = dict[str, Tensor]


@dataclass
class Call:
    """One sub-module, ready: its parameters in storage precision, its choice, its masks and its dropout mask."""

    module: SubModule
    choice: Choice
    masks: State
    """State tensor -> its mask, [B, a0, a1] or [B, a0], of this rank's part of the tensor."""
    drop: Tensor | None = None
    """Dropout's factors in mapped order, [1, n, c] or [r, 1, c] of this rank's rows, of the sample at hand; None: no dropout."""
    ranks: Ranks = ALONE
    total: int = 0
    """Rows of the axis that is shared, of all ranks; 0: alone."""
    away: Away = Away()
    draw: Callable[[int], Tensor] | None = None
    """Of a sample, its `drop`."""
    beside: Callable[[], None] = lambda: None
    """Begins what goes on beside the update, once what ranks share is here: of collectives each waits for the one before."""

    def samples(self, count: int, back: bool = False) -> Iterator[int]:
        """One after the other, each with its dropout."""
        for sample in reversed(range(count)) if back else range(count):
            if self.draw:
                self.drop = None  # before the next one is made
                self.drop = self.draw(sample)
            yield sample

    @property
    def ops(self) -> Ops:
        return KERNELS[self.choice.kernel]

    def rows(self, phase: str, x: Tensor, axis: int, start: int, stop: int) -> Tensor:
        """Rows start..stop of x as the kernel of the phase, "share" or "update", takes them: that axis first."""
        part = view(x, axis, start, stop)
        return part if self.module.spec.strided(self.choice.kernel, phase) else self.ops.packed(part, None)

    def mask_rows(self, phase: str, mask: Tensor, axis: int, start: int, stop: int) -> Tensor:
        """Of a mask, the same."""
        strided = self.module.spec.strided(self.choice.kernel, phase)
        return view(mask, axis, start, stop) if strided else take(mask, axis, start, stop)

    def drop_rows(self, start: int, stop: int) -> Tensor | None:
        if self.drop is None or self.drop.shape[0] == 1:
            return self.drop
        return self.drop[start:stop]


@dataclass
class Graph:
    """One slice's recorded call: its leaves and where its result hangs. Its backward consumes it."""

    leaves: list[Tensor]
    results: list[GradientEdge]


@dataclass
class Kept:
    """What a recorded sub-module keeps for its backward, a sample at a time; empty where it recomputes."""

    module: SubModule
    shared: list[tuple[Tensor, ...]] = field(default_factory=list)
    shares: list[list[Graph]] = field(default_factory=list)
    updates: list[list[Graph]] = field(default_factory=list)


def share(call: Call, module: SubModule, x: Tensor, mask: Tensor, graphs: list[Graph] | None = None) -> tuple[Tensor, ...]:
    """What all rows of one sample share, those of other ranks included unless they come in pieces; with `graphs`, records a graph
    a slice."""
    axis = call.module.spec.shares
    assert axis is not None
    buffers: tuple[Tensor, ...] = ()
    rows, total = call.choice.share_rows, call.total or x.shape[axis[1]]
    first, last = call.ranks.own(total)
    if call.choice.piece_rows:
        first, last, total = 0, last - first, last - first
    for start, stop, at in windows({axis: x}, rows, call.away):
        part = leaf(mapped(call, "share", at.pop(axis), axis))
        out = module.share(part, call.mask_rows("share", mask, axis[1], start, stop), call.ops)
        if graphs is not None:
            graphs.append(Graph([part], [get_gradient_edge(o) for o in out if o.requires_grad]))
        del part
        if rows >= total and (call.ranks.size == 1 or (call.choice.piece_rows and all(o.is_contiguous() for o in out))):
            return tuple(o.detach() for o in out)
        buffers = buffers or tuple(o.new_empty(total, *o.shape[1:]) for o in out)
        for buffer, o in zip(buffers, out, strict=True):
            copy(buffer[first + start : first + stop], o.detach())
        del out, o
    if first == last:  # a rank without rows: what others send has the shapes of nothing
        with torch.no_grad():
            out = module.share(take(x, axis[1], 0, 0), take(mask, axis[1], 0, 0), KERNELS["reference"])
        buffers = tuple(o.new_empty(total, *o.shape[1:]) for o in out)
    if call.ranks.size > 1 and not call.choice.piece_rows:
        for buffer in buffers:
            call.ranks.gather(buffer)
    return buffers


def mapped(call: Call, phase: str, part: Tensor, axis: Axis) -> Tensor:
    """Rows as a sub-module takes them."""
    return call.rows(phase, part, axis[1], 0, part.shape[axis[1]])


def update(call: Call, module: SubModule, x: tuple[Tensor, ...], shared: tuple[Tensor, ...], mask: Tensor, start: int, stop: int) -> Tensor:
    """The update of rows start..stop, x being those rows."""
    main = call.module.spec.reads[0]
    return module.update(x, call.mask_rows("update", mask, main[1], start, stop), shared, call.ops)


def forward(call: Call, state: State, target: Tensor, source: Tensor | None = None) -> None:
    """Adds the update of `state` to `target`, the tensor that is written: in place, slice by slice. Or writes `source`, its last
    version, with the update to `target`.

    In place is safe where target is the very tensor that is read, since a slice reads only its own rows and `shared`.
    """
    spec = call.module.spec
    written = spec.writes if state.get(spec.writes[0]) is target else ("", spec.writes[1])
    module = bound(call.module, target.dtype)
    with torch.no_grad():
        for sample in call.samples(len(target)):
            if call.choice.channels:
                channels.forward(call, module, state, target, target if source is None else source, sample)
                continue
            shared: tuple[Tensor, ...] = ()
            if spec.shares:
                shared = share(call, module, state[spec.shares[0]][sample], call.masks[spec.shares[0]][sample])
            call.beside()
            if call.choice.piece_rows:
                pieces.forward(call, module, shared, state, target, target if source is None else source, sample)
                continue
            main = spec.reads[0]
            mask = call.masks[main[0]][sample]
            tensors = {axis: state[axis[0]][sample] for axis in spec.reads} | {written: target[sample]}
            for start, stop, at in windows(tensors, call.choice.rows, call.away, written):
                part = view(at[written], spec.writes[1], 0, stop - start)
                before = part if source is None else view(source[sample], spec.writes[1], start, stop)
                with onto(part, before, call.drop_rows(start, stop)) as residual:
                    x = (mapped(call, "update", at[axis], axis) for axis in spec.reads)
                    residual.settle(update(call, module, tuple(x), shared, mask, start, stop), call.ops.add)
                del at, part, before, residual


def record(call: Call, state: State) -> tuple[Tensor, Kept | None]:
    """The new version of the tensor that is written, and what backward needs beyond the versions of the state."""
    spec = call.module.spec
    source = state[spec.writes[0]]
    target = torch.empty_like(source)
    if call.choice.recompute:
        forward(call, state, target, source)
        return target, None
    kept = Kept(bound(call.module, target.dtype, leaves=True))
    for sample in call.samples(len(target)):
        shared: tuple[Tensor, ...] = ()
        with torch.enable_grad():
            if spec.shares:
                kept.shares.append([])
                shared = share(call, kept.module, state[spec.shares[0]][sample], call.masks[spec.shares[0]][sample], kept.shares[-1])
                shared = differentiable(call, shared)
        call.beside()
        kept.shared.append(shared)
        kept.updates.append([])
        main = spec.reads[0]
        for start, stop in slices(state[main[0]].shape[1 + main[1]], call.choice.rows):
            with torch.enable_grad():
                u, graph = trace(call, kept.module, state, shared, sample, start, stop)
            kept.updates[-1].append(graph)
            with torch.no_grad():
                part, before = (view(x[sample], spec.writes[1], start, stop) for x in (target, source))
                call.ops.add(part, before, u.detach(), call.drop_rows(start, stop))
            del u, graph
    return target, kept


def differentiable(call: Call, shared: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What is shared as leaves of a graph, but for the masks at its end."""
    n = len(shared) - call.module.spec.shared_masks
    return tuple(s.detach().requires_grad_(i < n) for i, s in enumerate(shared))


def trace(
    call: Call, module: SubModule, state: State, shared: tuple[Tensor, ...], sample: int, start: int, stop: int
) -> tuple[Tensor, Graph]:
    spec = call.module.spec
    x = tuple(leaf(call.rows("update", state[name][sample], axis, start, stop)) for name, axis in spec.reads)
    u = update(call, module, x, shared, call.masks[spec.reads[0][0]][sample], start, stop)
    return u, Graph(list(x), [get_gradient_edge(u)])


def backward(call: Call, state: State, kept: Kept | None, grads: State, gradients: Gradients) -> None:
    """From the gradient of what the sub-module wrote to those of what it read: in place in `grads`, and into `gradients`.

    In place is safe as in forward: a slice's gradient reaches its own rows and `shared`, whose own backward comes last.
    """
    spec = call.module.spec
    module = kept.module if kept else bound(call.module, grads[spec.writes[0]].dtype, leaves=True)
    for sample in call.samples(len(grads[spec.writes[0]]), back=True):
        if kept:
            shared = kept.shared.pop()
        elif spec.shares:
            x, mask = state[spec.shares[0]][sample], call.masks[spec.shares[0]][sample]
            with torch.no_grad():
                shared = share(call, module, x, mask)
            shared = differentiable(call, shared)
        else:
            shared = ()
        call.beside()
        if call.choice.piece_rows:
            d_shared = pieces.backward(call, module, shared, state, sample, grads, gradients)
        else:
            d_shared = backward_updates(call, module, state, kept, shared, sample, grads, gradients)
        del shared
        if spec.shares:
            backward_shares(call, module, state, kept, d_shared, sample, grads, gradients)
            del d_shared


def backward_updates(
    call: Call,
    module: SubModule,
    state: State,
    kept: Kept | None,
    shared: tuple[Tensor, ...],
    sample: int,
    grads: State,
    gradients: Gradients,
) -> list[Tensor]:
    """Returns the gradient of what is shared, in the rows of this rank that of all ranks."""
    spec = call.module.spec
    main = spec.reads[0]
    graphs = kept.updates.pop() if kept else []
    d_shared: list[Tensor] = []
    sources = [s for s in shared if s.requires_grad]
    for start, stop in reversed(list(slices(state[main[0]].shape[1 + main[1]], call.choice.rows))):
        if kept:
            graph = graphs.pop()
        else:
            with torch.enable_grad(), unread():
                graph = trace(call, module, state, shared, sample, start, stop)[1]
        g = call.ops.packed(view(grads[spec.writes[0]][sample], spec.writes[1], start, stop), call.drop_rows(start, stop))
        d_x, d_s = differentiate(call, module, graph, sources, [g], gradients)
        del graph, g
        for (name, axis), d in zip(spec.reads, d_x, strict=True):
            rows = view(grads[name][sample], axis, start, stop)
            call.ops.add(rows, rows, d, None)
        del d_x, d, rows
        if not d_shared:
            d_shared = d_s
        else:
            for total, d in zip(d_shared, d_s, strict=True):
                total.add_(d)
                del d
        del d_s
    if call.ranks.size > 1:
        d_shared = d_shared or [torch.zeros_like(s) for s in sources]
        for i in range(len(d_shared)):
            d_shared[i] = dense(d_shared[i])
            call.ranks.reduce(d_shared[i])
    return d_shared


def backward_shares(
    call: Call, module: SubModule, state: State, kept: Kept | None, d_shared: list[Tensor], sample: int, grads: State, gradients: Gradients
) -> None:
    spec = call.module.spec
    assert spec.shares is not None
    name, axis = spec.shares
    x, mask = state[name][sample], call.masks[name][sample]
    graphs = kept.shares.pop() if kept else []
    first = 0 if call.choice.piece_rows else call.ranks.own(call.total)[0]
    for start, stop in reversed(list(slices(x.shape[axis], call.choice.share_rows))):
        if kept:
            graph = graphs.pop()
        else:
            with torch.enable_grad():
                part = leaf(call.rows("share", x, axis, start, stop))
                out = module.share(part, call.mask_rows("share", mask, axis, start, stop), call.ops)
                graph = Graph([part], [get_gradient_edge(o) for o in out if o.requires_grad])
                del part, out
        d_x, _ = differentiate(call, module, graph, [], [d[first + start : first + stop] for d in d_shared], gradients)
        del graph
        rows = view(grads[name][sample], axis, start, stop)
        call.ops.add(rows, rows, d_x[0], None)
        del d_x, rows


def differentiate(
    call: Call, module: SubModule, graph: Graph, sources: list[Tensor], grads: list[Tensor], gradients: Gradients
) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """The gradients of the graph's leaves and of `sources`; those of the parameters go to `gradients`."""
    wanted = [*graph.leaves, *sources]
    d = torch.autograd.grad(graph.results, [*wanted, *leaves_of(module)], grads, allow_unused=True)
    gradients.add(call.module, d[len(wanted) :])
    return d[: len(graph.leaves)], list(d[len(graph.leaves) : len(wanted)])
