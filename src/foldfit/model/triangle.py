"""Triangle multiplication and the outer product mean: the two updates whose other operand is gathered from all rows."""

from torch import Tensor

from foldfit.model.submodule import SubModule
from foldfit.ops import Ops

MOST = 64
"""A factor of n / 1e-3, which is what AlphaFold's is where no sequence counts, is less than fp16's largest number up to here."""


class TriangleMultiplication(SubModule):
    """AF2 Suppl. Alg. 11 "TriangleMultiplicationOutgoing" by row; Alg. 12 "...Incoming" is the same by column."""

    def share(self, x: Tensor, mask: Tensor, ops: Ops) -> tuple[Tensor, ...]:
        """x [r, n, c], mask [r, n] -> the right projection ([r, u, n],)."""
        right = ops.gated_linear(
            x, self.norm_scale, self.norm_offset, mask, self.right_w, self.right_gate_w, self.right_b, self.right_gate_b
        )
        return (right,)

    def update(self, x: tuple[Tensor, ...], mask: Tensor, shared: tuple[Tensor, ...], ops: Ops) -> Tensor:
        """x ([r, n, c],), mask [r, n], shared ([R, u, n],) -> [r, n, c]."""
        return ops.triangle_update(
            ops.gated_linear(
                x[0], self.norm_scale, self.norm_offset, mask, self.left_w, self.left_gate_w, self.left_b, self.left_gate_b
            ),
            shared[0], x[0], self.norm_scale, self.norm_offset, self.center_scale, self.center_offset,
            self.output_w, self.output_b, self.gating_w, self.gating_b,
        )  # fmt: skip

    def prepare(self, x: tuple[Tensor, ...], mask: Tensor, ops: Ops) -> tuple[Tensor, ...]:
        """x ([r, n, c],), mask [r, n] -> the left projection ([r, u, n],)."""
        left = ops.gated_linear(x[0], self.norm_scale, self.norm_offset, mask, self.left_w, self.left_gate_w, self.left_b, self.left_gate_b)
        return (left,)

    def finish(self, x: tuple[Tensor, ...], prepared: tuple[Tensor, ...], shared: tuple[Tensor, ...], ops: Ops) -> Tensor:
        """x ([r, R, c],), the left projection ([r, u, n],), shared ([R, u, n],) -> [r, R, c]."""
        return ops.triangle_update(
            prepared[0], shared[0], x[0], self.norm_scale, self.norm_offset, self.center_scale, self.center_offset,
            self.output_w, self.output_b, self.gating_w, self.gating_b,
        )  # fmt: skip

    def combine(self, prepared: tuple[Tensor, ...], shared: tuple[Tensor, ...], ops: Ops) -> Tensor:
        """([r, u, n],) and ([R, u, n],) of some channels u -> their product [u, r, R]."""
        return ops.triangle_product(prepared[0], shared[0])

    def conclude(self, x: tuple[Tensor, ...], combined: Tensor, ops: Ops) -> Tensor:
        """x ([r, n, c],), the product [u, r, n] -> [r, n, c]."""
        return ops.triangle_end(
            combined, x[0], self.norm_scale, self.norm_offset, self.center_scale, self.center_offset,
            self.output_w, self.output_b, self.gating_w, self.gating_b,
        )  # fmt: skip


class OuterProductMean(SubModule):
    """AF2 Suppl. Alg. 10 "OuterProductMean": reads the MSA by residue, updates the pair by row.

    The left projection is divided by n_seq, or by `MOST`, before the product and the result multiplied by as much after it, so that
    fp16 holds the sums, and the factor of two residues that no sequence has both of.
    """

    def share(self, x: Tensor, mask: Tensor, ops: Ops) -> tuple[Tensor, ...]:
        """x [r, n, c], mask [r, n] -> the right projection and its mask ([r, p, n], [r, n])."""
        return ops.masked_linear(x, self.norm_scale, self.norm_offset, mask, self.right_w, self.right_b), mask

    def update(self, x: tuple[Tensor, ...], mask: Tensor, shared: tuple[Tensor, ...], ops: Ops) -> Tensor:
        """x ([r, n, c],), mask [r, n], shared ([R, p, n], [R, n]) -> [r, R, z]."""
        right, right_mask = shared
        n = min(x[0].shape[1], MOST)
        left = ops.masked_linear(x[0], self.norm_scale, self.norm_offset, mask / n, self.left_w, self.left_b)
        pairs = mask.float() @ right_mask.float().t()  # [r, R]: sequences that have both residues
        return ops.outer_product(left, right, self.output_w, self.output_b / n, (n / (1e-3 + pairs)).to(left.dtype))

    def prepare(self, x: tuple[Tensor, ...], mask: Tensor, ops: Ops) -> tuple[Tensor, ...]:
        """x ([r, n, c],), mask [r, n] -> the left projection and its mask ([r, o, n], [r, n])."""
        n = min(x[0].shape[1], MOST)
        return ops.masked_linear(x[0], self.norm_scale, self.norm_offset, mask / n, self.left_w, self.left_b), mask

    def finish(self, x: tuple[Tensor, ...], prepared: tuple[Tensor, ...], shared: tuple[Tensor, ...], ops: Ops) -> Tensor:
        """The left projection and its mask, shared ([R, p, n], [R, n]) -> [r, R, z]."""
        (left, mask), (right, right_mask) = prepared, shared
        n = min(left.shape[2], MOST)
        pairs = mask.float() @ right_mask.float().t()
        return ops.outer_product(left, right, self.output_w, self.output_b / n, (n / (1e-3 + pairs)).to(left.dtype))
