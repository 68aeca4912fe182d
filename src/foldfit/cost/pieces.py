"""Bytes of running a sub-module whose shared tensors come in pieces (runtime/pieces.py): this rank's part of them, the piece at hand and
the one on its way, in place of the whole."""

from foldfit.cost.expression import nbytes
from foldfit.cost.memory import Bytes, Setting, Slices, drop_bytes, parameter_bytes
from foldfit.cost.sizes import of_piece, sizes_of
from foldfit.plans import Choice
from foldfit.stacks.spec import Axis, Kernel, Phase, SubModuleSpec


class PieceSlices(Slices):
    """The update of a slice at the columns of a piece. Its moments are those of the whole update with the piece's rows for all
    rows: a bound, since what they write as n although it is a column more is less in a piece."""

    def __init__(self, spec: SubModuleSpec, phase: Phase, axes: tuple[Axis, ...], choice: Choice, setting: Setting) -> None:
        super().__init__(spec, phase, axes, choice.rows, setting)
        self.update_phase, self.piece = phase, min(choice.piece_rows, self.total)

    def bytes(self, expression: str, rows: int) -> int:
        s = self.setting
        if not rows:
            return 0
        return nbytes(expression, of_piece(sizes_of(self.spec, self.axes[0], s.shapes, rows), self.piece), s.itemsize, s.align)

    def columns(self) -> int:
        """The copy of a slice's columns, where the kernel wants one."""
        return self.bytes("r R c", self.rows) if self.spec.reads == (self.spec.writes,) and not self.phase.strided else 0


def shared_rows(spec: SubModuleSpec, setting: Setting, rows: int) -> tuple[int, int]:
    """Bytes of so many rows of what is shared, and those of them that have a gradient."""
    assert spec.shares is not None
    sizes = sizes_of(spec, spec.shares, setting.shapes, rows) | {"R": rows}
    each = [nbytes(dims, sizes, setting.itemsize, setting.align) for dims in spec.shared]
    return sum(each), sum(each[: len(each) - spec.shared_masks])


def piece_bytes(spec: SubModuleSpec, kernel: Kernel, choice: Choice, setting: Setting) -> Bytes:
    """As `sub_module_bytes`. One that keeps cannot be recorded: its `inter` and `back` are without meaning."""
    assert spec.shares is not None and kernel.share is not None
    update = PieceSlices(spec, kernel.update, spec.reads, choice, setting)
    share = Slices(spec, kernel.share, (spec.shares,), choice.share_rows, setting)
    own, own_gradient = shared_rows(spec, setting, setting.shapes.own(*spec.shares))
    piece, gradient = shared_rows(spec, setting, update.piece)
    around = min(2, setting.shapes.ranks - 1) * piece
    resident = drop_bytes(spec, setting) + (parameter_bytes(spec, setting.itemsize, setting.align) if setting.cast else 0)
    share_forward = share.forward() + own
    forward = resident + max(share_forward, own + around + update.forward() + update.columns())
    # A rank's gradient of a piece, the one it passed on and the one that comes; the preparation's, and columns of the update's.
    beside = 3 * gradient + update.bytes(" + ".join(spec.prepared), update.rows) + update.columns() + update.bytes("r R z", update.rows)
    if spec.reads != (spec.writes,):  # all gradients of a piece come at once; elsewhere the bound has room for that
        beside += gradient + update.bytes(" + ".join(spec.prepared), update.rows)
    back_update = own + own_gradient + around + beside + update.backward(0, kept=False)
    back_share = share.backward(0, kept=False) + own_gradient
    return Bytes(forward, 0, resident + max(share_forward, back_update, back_share), forward)


def turns(setting: Setting, spec: SubModuleSpec, choice: Choice) -> tuple[int, int]:
    """How many slices of rows a rank has, and in how many pieces everything goes around for each."""
    assert spec.shares is not None
    slices = -(-setting.shapes.own(*spec.reads[0]) // choice.rows)
    return slices, setting.shapes.ranks * -(-setting.shapes.own(*spec.shares) // choice.piece_rows)
