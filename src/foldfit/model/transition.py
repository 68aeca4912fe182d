"""Transitions: a two-layer perceptron on every element."""

from torch import Tensor

from foldfit.model.submodule import SubModule
from foldfit.ops import Ops


class Transition(SubModule):
    """AF2 Suppl. Alg. 9 "MSATransition", Alg. 15 "PairTransition"."""

    def update(self, x: tuple[Tensor, ...], mask: Tensor, shared: tuple[Tensor, ...], ops: Ops) -> Tensor:
        """x ([r, n, c],) -> [r, n, c]."""
        return ops.relu_mlp(x[0], self.norm_scale, self.norm_offset, self.up_w, self.up_b, self.down_w, self.down_b)


class SwiGLUTransition(SubModule):
    """AF3 Suppl. Alg. 11 "Transition"."""

    def update(self, x: tuple[Tensor, ...], mask: Tensor, shared: tuple[Tensor, ...], ops: Ops) -> Tensor:
        """x ([r, n, c],) or ([r, c],) -> the same shape."""
        return ops.swiglu(x[0], self.norm_scale, self.norm_offset, self.gate_w, self.up_w, self.down_w)
