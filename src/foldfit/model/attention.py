"""Gated self-attention along the other axis, with or without a bias from the pair; shapes: r rows, n other axis, h heads, d head dim."""

from torch import Tensor

from foldfit.model.submodule import SubModule
from foldfit.ops import Ops


class Attention(SubModule):
    """AF2 Suppl. Alg. 8 "MSAColumnAttention": no bias, nothing shared."""

    def update(self, x: tuple[Tensor, ...], mask: Tensor, shared: tuple[Tensor, ...], ops: Ops) -> Tensor:
        """x ([r, n, c],), mask [r, n], shared ([n, h, k],) or () -> [r, n, c]."""
        return ops.attention(
            x[0], self.norm_scale, self.norm_offset, self.query_w, self.key_w, self.value_w, self.gating_w, self.gating_b,
            self.output_w, self.output_b, shared[0] if shared else None, mask,
        )  # fmt: skip


class TriangleAttention(Attention):
    """AF2 Suppl. Alg. 13 "TriangleAttentionStartingNode" by row; Alg. 14 "...EndingNode" is the same by column."""

    def share(self, x: Tensor, mask: Tensor, ops: Ops) -> tuple[Tensor, ...]:
        """x [r, n, c_z] -> the bias of r queries ([r, h, n],)."""
        return (ops.pair_bias(x, self.norm_scale, self.norm_offset, self.bias_w),)


class RowAttentionWithPairBias(Attention):
    """AF2 Suppl. Alg. 7 "MSARowAttentionWithPairBias": the bias has a layer norm of its own."""

    def share(self, x: Tensor, mask: Tensor, ops: Ops) -> tuple[Tensor, ...]:
        """x [r, n, c_z], rows of the pair -> the bias of r queries ([r, h, n],)."""
        return (ops.pair_bias(x, self.bias_norm_scale, self.bias_norm_offset, self.bias_w),)


class GlobalAttention(SubModule):
    """AF2 Suppl. Alg. 19 "MSAColumnGlobalAttention": one averaged query a column, one key head."""

    def update(self, x: tuple[Tensor, ...], mask: Tensor, shared: tuple[Tensor, ...], ops: Ops) -> Tensor:
        """x ([r, n, c],), mask [r, n] -> [r, n, c]."""
        return ops.global_attention(
            x[0], self.norm_scale, self.norm_offset, self.query_w, self.key_w, self.value_w, self.gating_w, self.gating_b,
            self.output_w, self.output_b, mask,
        )  # fmt: skip


class SingleAttention(SubModule):
    """AF3 Suppl. Alg. 24 "AttentionPairBias" without conditioning: the bias of a token's row comes from its row of the pair."""

    def share(self, x: Tensor, mask: Tensor, ops: Ops) -> tuple[Tensor, ...]:
        """x [r, c], mask [r] -> keys, values and their mask ([r, h, d], [r, h, d], [r])."""
        y = ops.layer_norm(x, self.norm_scale, self.norm_offset)
        return ops.linear(y, self.key_w, None), ops.linear(y, self.value_w, None), mask

    def update(self, x: tuple[Tensor, ...], mask: Tensor, shared: tuple[Tensor, ...], ops: Ops) -> Tensor:
        """x ([r, c], [r, k, z]), mask [r], shared ([k, h, d], [k, h, d], [k]) -> [r, c]."""
        y = ops.layer_norm(x[0], self.norm_scale, self.norm_offset)
        bias = ops.linear(ops.layer_norm(x[1], self.bias_norm_scale, self.bias_norm_offset), self.bias_w, None)
        k, v, key_mask = shared
        o = ops.single_attention(ops.linear(y, self.query_w, self.query_b), k, v, bias, key_mask)
        gate = ops.gate(y, self.gating_w, None)
        return ops.linear((gate * o).flatten(1), self.output_w.flatten(0, 1), None)
