"""Bytes of running one sub-module by a choice: what the executor (runtime/apply.py) holds, moment by moment.

`inter` is the peak beyond the state, `saved` what stays until backward, `back` the peak of backward with `saved` included;
the new version of the tensor that a recorded run writes is counted by the block. All per run over the whole batch.
"""

from dataclasses import dataclass
from math import prod

from foldfit.cost.expression import Sizes, nbytes
from foldfit.cost.sizes import Shapes, sizes_of
from foldfit.plans import Choice
from foldfit.stacks.spec import Axis, Kernel, Phase, SubModuleSpec

READ, WRITTEN = 2, 3
"""Buffers of a tensor on the host (runtime/windows.py): one worked on, one filled, and of one that is written one emptied."""


@dataclass(frozen=True)
class Setting:
    """What the bytes of a sub-module depend on beside its choice."""

    shapes: Shapes
    itemsize: int
    batch: int = 1
    cast: bool = False
    """Parameters are stored in another precision than activations, so each call makes a copy."""
    dropout: bool = False
    align: int = 1
    """Bytes that the allocator rounds a tensor up to."""


class Slices:
    """A phase in slices: its moments, of the full slices and of the shorter last one."""

    def __init__(self, spec: SubModuleSpec, phase: Phase, axes: tuple[Axis, ...], rows: int, setting: Setting) -> None:
        self.spec, self.phase, self.axes, self.setting = spec, phase, axes, setting
        self.total = setting.shapes.own(*axes[0])
        self.rows = min(rows, self.total)
        self.count, self.rest = divmod(self.total, self.rows)
        self.sizes: dict[int, Sizes] = {}
        self.known: dict[tuple[str, int], int] = {}

    def bytes(self, expression: str, rows: int) -> int:
        if not rows:
            return 0
        if (expression, rows) not in self.known:
            s = self.setting
            if rows not in self.sizes:
                self.sizes[rows] = sizes_of(self.spec, self.axes[0], s.shapes, rows)
            self.known[expression, rows] = nbytes(expression, self.sizes[rows], s.itemsize, s.align)
        return self.known[expression, rows]

    def most(self, moments: tuple[str, ...], rows: int) -> int:
        return max((self.bytes(m, rows) for m in moments), default=0) if rows else 0

    def copies(self, rows: int) -> int:
        """Slices of a second axis are copied to be contiguous, their mask too, where the kernel wants that."""
        return 0 if self.phase.strided else self.bytes("t r n c + t r n + v r n", rows)

    @property
    def sliced(self) -> bool:
        return self.count + (self.rest > 0) > 1

    def windows(self, away: list[str], written: Axis | None = None) -> int:
        """Of the buffers on the device that rows of tensors on the host come and go through."""
        s, total = self.setting, 0
        for name, axis in dict.fromkeys((*self.axes, *((written,) if written else ()))):
            if name in away:
                one = self.rows * prod(s.shapes.axes[name]) // s.shapes.axes[name][axis] * s.shapes.channels[name] * s.itemsize
                turns = WRITTEN if (name, axis) == written else READ
                total += min(turns, self.count + (self.rest > 0)) * (-(-one // s.align) * s.align)
        return total

    def forward(self) -> int:
        return max(self.most(self.phase.forward, r) + self.copies(r) for r in (self.rows, self.rest))

    def saved(self, rows: int) -> int:
        return (self.bytes(self.phase.saved, rows) + self.copies(rows)) if rows else 0

    def saved_all(self) -> int:
        return self.count * self.saved(self.rows) + self.saved(self.rest)

    def record(self) -> int:
        """Peak of recording slice after slice, all that they save included."""
        full = (self.count - 1) * self.saved(self.rows) + self.most(self.phase.record, self.rows) + self.copies(self.rows)
        rest = self.count * self.saved(self.rows) + self.most(self.phase.record, self.rest) + self.copies(self.rest)
        return max(full, rest if self.rest else 0)

    def backward(self, gradient: int, kept: bool) -> int:
        """Peak over slices, last one first. `gradient`: bytes of the shared tensors' gradient, which outlives the first
        slice; with `kept`, what the slices still to come have saved is included."""
        peak, first = 0, True
        remaining = self.saved_all() if kept else 0
        for r in ((self.rest,) if self.rest else ()) + (self.rows,) * min(self.count, 2):
            remaining -= self.saved(r) if kept else 0
            at_hand = self.most(self.phase.backward, r) + self.incoming(r)
            if not kept:
                at_hand = max(at_hand, self.most(self.phase.record, r))
            peak = max(peak, remaining + at_hand + self.copies(r) + (0 if first else gradient))
            first = False
        return peak

    def incoming(self, rows: int) -> int:
        """The slice of the upstream gradient: a copy of a second axis, or under dropout."""
        written = self.spec.writes
        if self.phase is not self.update_phase:
            return 0
        one = self.bytes("r R z" if written[0] != self.axes[0][0] else "r n c", rows)
        drop = self.setting.dropout and self.spec.dropout > 0
        return one * max(written[1], drop)

    update_phase: Phase | None = None


@dataclass(frozen=True)
class Bytes:
    inter: int
    saved: int
    back: int
    forward: int
    """Peak of a run that is not recorded."""


def sub_module_bytes(spec: SubModuleSpec, kernel: Kernel, choice: Choice, setting: Setting) -> Bytes:
    """Peaks of one sub-module under a choice. For a kernel that cannot be recorded, `inter` and `back` are without meaning."""
    update = Slices(spec, kernel.update, spec.reads, choice.rows, setting)
    update.update_phase = kernel.update
    cast = parameter_bytes(spec, setting.itemsize, setting.align) if setting.cast else 0
    drop = drop_bytes(spec, setting)
    shared = shared_grads = dense = 0
    share = None
    if spec.shares and kernel.share:
        share = Slices(spec, kernel.share, (spec.shares,), choice.share_rows, setting)
        each = shared_bytes(spec, setting)
        shared, shared_grads = sum(each), sum(each[: len(each) - spec.shared_masks])
        # Before ranks sum its gradient, each tensor of it is made contiguous.
        dense = max(each[: len(each) - spec.shared_masks]) if setting.shapes.ranks > 1 else 0
    gathered = shared if share and (share.sliced or setting.shapes.ranks > 1) else 0
    share_forward = share.forward() + gathered if share else 0
    forward = cast + max(share_forward, shared + update.forward())
    recordable = bool(kernel.update.record)
    if choice.recompute or not recordable:
        back_update = shared + max(update.backward(shared_grads, kept=False), shared_grads + dense)
        back_share = share.backward(0, kept=False) + shared_grads if share else 0
        return Bytes(drop + forward, 0, drop + cast + max(share_forward, back_update, back_share), drop + forward)
    share_saved = share.saved_all() if share else 0
    one = shared + share_saved + update.saved_all()
    before = (setting.batch - 1) * one
    record = max(share.record() + gathered if share else 0, shared + share_saved + update.record())
    back_update = shared + share_saved + max(update.backward(shared_grads, kept=True), shared_grads + dense)
    back = max(back_update, (shared_grads + share.backward(0, kept=True)) if share else 0)
    return Bytes(drop + cast + before + record, cast + before + one, drop + cast + before + back, drop + forward)


def away_bytes(spec: SubModuleSpec, kernel: Kernel, choice: Choice, setting: Setting) -> tuple[int, int]:
    """Peaks of what is shared and of the update, of a run that is not recorded, on one rank and without dropout, with state tensors on
    the host."""
    away = choice.host.split()
    update = Slices(spec, kernel.update, spec.reads, choice.rows, setting)
    shared, sharing = sum(shared_bytes(spec, setting)), 0
    if spec.shares and kernel.share:
        share = Slices(spec, kernel.share, (spec.shares,), choice.share_rows, setting)
        sharing = share.forward() + (shared if share.sliced else 0) + share.windows(away)
    cast = parameter_bytes(spec, setting.itemsize, setting.align) if setting.cast else 0
    return cast + sharing, cast + shared + update.forward() + update.windows(away, spec.writes)


def shared_bytes(spec: SubModuleSpec, setting: Setting) -> list[int]:
    """Of each tensor that all rows share, whole, for one sample."""
    if not spec.shares:
        return []
    sizes = sizes_of(spec, spec.shares, setting.shapes, setting.shapes.axes[spec.shares[0]][spec.shares[1]])
    return [nbytes(dims, sizes, setting.itemsize, setting.align) for dims in spec.shared]


def drop_bytes(spec: SubModuleSpec, setting: Setting) -> int:
    """Of the dropout mask, [1, n, c] or [r, 1, c]."""
    if not (setting.dropout and spec.dropout):
        return 0
    tensor, axis = spec.writes
    over = axis if spec.dropout_over == "n" else 1 - axis
    return setting.itemsize * setting.shapes.axes[tensor][over] * setting.shapes.channels[tensor]


def parameter_bytes(spec: SubModuleSpec, itemsize: int, align: int = 1) -> int:
    return sum(nbytes(p.dims, {d: spec.widths[d] for d in p.dims.split()}, itemsize, align) for p in spec.parameters.values() if p)


def parameter_count(spec: SubModuleSpec) -> int:
    return parameter_bytes(spec, 1)


def parameter_tensors(spec: SubModuleSpec) -> int:
    return sum(p is not None for p in spec.parameters.values())
