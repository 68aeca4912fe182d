"""Triangle multiplication and the outer product mean: the two updates whose other operand is gathered from all rows."""

from torch import Tensor

from foldfit.model.submodule import SubModule
from foldfit.ops import Ops


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


class OuterProductMean(SubModule):
    """AF2 Suppl. Alg. 10 "OuterProductMean": reads the MSA by residue, updates the pair by row.

    Projections are divided by n_seq before the product and multiplied after it, so that fp16 holds the sums.
    """

    def share(self, x: Tensor, mask: Tensor, ops: Ops) -> tuple[Tensor, ...]:
        """x [r, n, c], mask [r, n] -> the right projection and its mask ([r, p, n], [r, n])."""
        return ops.masked_linear(x, self.norm_scale, self.norm_offset, mask, self.right_w, self.right_b), mask

    def update(self, x: tuple[Tensor, ...], mask: Tensor, shared: tuple[Tensor, ...], ops: Ops) -> Tensor:
        """x ([r, n, c],), mask [r, n], shared ([R, p, n], [R, n]) -> [r, R, z]."""
        right, right_mask = shared
        n = x[0].shape[1]
        left = ops.masked_linear(x[0], self.norm_scale, self.norm_offset, mask / n, self.left_w, self.left_b)
        pairs = mask.float() @ right_mask.float().t()  # [r, R]: sequences that have both residues
        return ops.outer_product(left, right, self.output_w, self.output_b / n, (n / (1e-3 + pairs)).to(left.dtype))

    def prepare(self, x: tuple[Tensor, ...], mask: Tensor, ops: Ops) -> tuple[Tensor, ...]:
        """x ([r, n, c],), mask [r, n] -> the left projection and its mask ([r, o, n], [r, n])."""
        n = x[0].shape[1]
        return ops.masked_linear(x[0], self.norm_scale, self.norm_offset, mask / n, self.left_w, self.left_b), mask

    def finish(self, x: tuple[Tensor, ...], prepared: tuple[Tensor, ...], shared: tuple[Tensor, ...], ops: Ops) -> Tensor:
        """The left projection and its mask, shared ([R, p, n], [R, n]) -> [r, R, z]."""
        (left, mask), (right, right_mask) = prepared, shared
        n = left.shape[2]
        pairs = mask.float() @ right_mask.float().t()
        return ops.outer_product(left, right, self.output_w, self.output_b / n, (n / (1e-3 + pairs)).to(left.dtype))
