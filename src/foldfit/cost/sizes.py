"""Sizes: what the role letters of a spec are in a problem."""

from dataclasses import dataclass

from foldfit.cost.expression import Sizes
from foldfit.problem import Problem, Stack
from foldfit.stacks import StackSpec, SubModuleSpec, stack_spec
from foldfit.stacks.spec import Axis

SDPA_PADDING = 8
"""Channels that ops/sdpa.py adds to a head for the key mask."""


@dataclass(frozen=True)
class Shapes:
    """The state tensors of one stack in a problem: tensor -> its axes' lengths, without channels; and its channels."""

    axes: dict[str, tuple[int, ...]]
    channels: dict[str, int]

    def elements(self, tensor: str) -> int:
        total = self.channels[tensor]
        for length in self.axes[tensor]:
            total *= length
        return total


def shapes_of(problem: Problem, stack: Stack) -> tuple[StackSpec, Shapes]:
    spec = stack_spec(stack.name, **stack.widths)
    numbers = {"n_seq": stack.rows, "n_extra": stack.rows, "n_res": problem.n_res, **spec.widths}
    return spec, Shapes(
        {name: tuple(numbers[d] for d in dims[:-1]) for name, dims in spec.state.items()},
        {name: numbers[dims[-1]] for name, dims in spec.state.items()},
    )


def sizes_of(spec: SubModuleSpec, axis: Axis, shapes: Shapes, rows: int) -> Sizes:
    """Of a call on `rows` rows of `axis` (at most all). A slice of the second axis is copied: t = 1."""
    lengths, a = shapes.axes[axis[0]], axis[1]
    n = lengths[1 - a] if len(lengths) == 2 else 1
    whole = lengths[a]
    return {
        "R": whole, "r": min(rows, whole), "n": n, "k": n if len(lengths) == 2 else whole, "t": a,
        "x": spec.widths.get("d", 0) + SDPA_PADDING, **spec.widths,
    }  # fmt: skip
