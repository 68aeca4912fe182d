"""Sizes: what the role letters of a spec are in a problem."""

from dataclasses import dataclass, field
from math import prod

from foldfit.cost.expression import Sizes
from foldfit.problem import Problem, Stack
from foldfit.stacks import StackSpec, SubModuleSpec, stack_spec
from foldfit.stacks.spec import Axis

SDPA_PADDING = 8
"""Channels that ops/sdpa.py adds to a head for the key mask."""
PIECE = 262144
"""Elements that ops/triton_transition_backward.py takes at a time, at most."""
ALIGNED = 16
"""Sequences of which ops/triton_outer_product.py takes a multiple."""
PROGRAMS, UNITS, ROWS_EACH = 132, 128, 2048
"""Of ops/triton_narrow_transition.py."""
SHARES, PAIRS_EACH = 66, 2048
"""Of ops/triton_outer_product_backward.py."""


def shares(elements: int, most: int, each: int) -> int:
    """Of elements, each with sums of its own: at most so many, of at least `each`."""
    return max(1, min(most, elements // each))


@dataclass(frozen=True)
class Shapes:
    """The state tensors of one stack in a problem: tensor -> its axes' lengths, without channels; and its channels. Each of the
    `ranks` that share the sample has its rows of one axis: `layout`, by default 0."""

    axes: dict[str, tuple[int, ...]]
    channels: dict[str, int]
    ranks: int = 1
    layout: dict[str, int] = field(default_factory=dict)

    def own(self, tensor: str, axis: int) -> int:
        """The most of an axis' rows that one rank has."""
        whole = self.axes[tensor][axis]
        return -(-whole // self.ranks) if self.layout.get(tensor, 0) == axis else whole

    def elements(self, tensor: str) -> int:
        """Of the whole tensor."""
        return self.channels[tensor] * prod(self.axes[tensor])

    def own_elements(self, tensor: str) -> int:
        """The most that one rank has, whichever axis is shared."""
        lengths = self.axes[tensor]
        return self.channels[tensor] * max(-(-n // self.ranks) * (prod(lengths) // n) for n in lengths)


def shapes_of(problem: Problem, stack: Stack) -> tuple[StackSpec, Shapes]:
    spec = stack_spec(stack.name, **stack.widths)
    numbers = {"n_seq": stack.rows, "n_extra": stack.rows, "n_res": problem.n_res, **spec.widths}
    return spec, Shapes(
        {name: tuple(numbers[d] for d in dims[:-1]) for name, dims in spec.state.items()},
        {name: numbers[dims[-1]] for name, dims in spec.state.items()},
        problem.axial,
    )


def sizes_of(spec: SubModuleSpec, axis: Axis, shapes: Shapes, rows: int) -> Sizes:
    """Of a call on `rows` rows of `axis` (at most all of a rank's). A slice of the second axis is copied: t = 1; the mask's alone
    where the ranks share the other axis: v = 1."""
    (tensor, a), lengths = axis, shapes.axes[axis[0]]
    n = shapes.own(tensor, 1 - a) if len(lengths) == 2 else 1
    whole, r = lengths[a], min(rows, shapes.own(tensor, a))
    return {
        "s": shares(r * n, PROGRAMS // -(-spec.widths.get("u", 1) // UNITS), ROWS_EACH), "g": shares(r * whole, SHARES, PAIRS_EACH),
        "w": -(-n // ALIGNED) * ALIGNED if n % ALIGNED else 0,
        "R": whole, "r": r, "q": -(-r * n // max(1, -(-r * n // PIECE))), "n": n, "k": n if len(lengths) == 2 else whole, "t": a,
        "v": int(shapes.ranks > 1 and a == 0 and shapes.layout.get(tensor, 0) == 1),
        "x": spec.widths.get("d", 0) + SDPA_PADDING, **spec.widths,
    }  # fmt: skip


def of_piece(sizes: Sizes, rows: int) -> Sizes:
    """With so many rows of what is shared in place of all."""
    return sizes | {"R": rows, "g": shares(sizes["r"] * rows, SHARES, PAIRS_EACH)}
