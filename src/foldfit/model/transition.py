"""Transitions: a two-layer perceptron on every element."""

from torch import Tensor

from foldfit.model.submodule import SubModule
from foldfit.ops import Ops


class Transition(SubModule):
    """AF2 Suppl. Alg. 9 "MSATransition", Alg. 15 "PairTransition"."""

    def update(self, x: tuple[Tensor, ...], mask: Tensor, shared: tuple[Tensor, ...], ops: Ops) -> Tensor:
        """x ([r, n, c],) -> [r, n, c]."""
        y = ops.layer_norm(x[0], self.norm_scale, self.norm_offset)
        return ops.relu_mlp(y, self.up_w, self.up_b, self.down_w, self.down_b)


class SwiGLUTransition(SubModule):
    """AF3 Suppl. Alg. 11 "Transition"."""

    def update(self, x: tuple[Tensor, ...], mask: Tensor, shared: tuple[Tensor, ...], ops: Ops) -> Tensor:
        """x ([r, n, c],) or ([r, c],) -> the same shape."""
        y = ops.layer_norm(x[0], self.norm_scale, self.norm_offset)
        return ops.swiglu(y, self.gate_w, self.up_w, self.down_w)
