"""What a trunk is, as data. `stack_spec("evoformer", c_m=64)` gives one with some of AF2's widths changed."""

from collections.abc import Callable, Sequence
from functools import cache

from foldfit.errors import BadInput
from foldfit.stacks.evoformer import evoformer, extra_msa
from foldfit.stacks.pairformer import pairformer
from foldfit.stacks.spec import Kernel, Parameter, Phase, StackSpec, SubModuleSpec

STACKS: dict[str, Callable[..., StackSpec]] = {"evoformer": evoformer, "extra_msa": extra_msa, "pairformer": pairformer}


def stack_spec(name: str, **widths: int) -> StackSpec:
    """The stack of that name; `widths` change its defaults. Raises BadInput for an unknown name or width, or one below 1."""
    if name not in STACKS:
        raise BadInput(f"unknown stack {name!r}: expected one of {', '.join(STACKS)}")
    known = STACKS[name]().widths
    for width, value in widths.items():
        if width not in known:
            raise BadInput(f"unknown width {width!r} of stack {name}: expected one of {', '.join(known)}")
        if not isinstance(value, int) or value < 1:
            raise BadInput(f"width {width} of stack {name}: expected a whole number of at least 1, got {value!r}")
    return STACKS[name](**widths)


def check_together(specs: Sequence[StackSpec]) -> None:
    """Raises BadInput where stacks in a row want a tensor that they share in different widths."""
    known: dict[str, tuple[int, str]] = {}
    for spec in specs:
        for name, dims in spec.state.items():
            width, first = known.setdefault(name, (spec.widths[dims[-1]], spec.name))
            if width != spec.widths[dims[-1]]:
                got = f"{width} in {first}, {spec.widths[dims[-1]]} in {spec.name}"
                raise BadInput(f"{dims[-1]}: expected one width of {name} in all stacks, got {got}")


@cache
def published() -> tuple[SubModuleSpec, ...]:
    """The sub-modules of all stacks at the published widths."""
    return tuple(sub for name in STACKS for sub in stack_spec(name).sub_modules)


__all__ = ["STACKS", "Kernel", "Parameter", "Phase", "StackSpec", "SubModuleSpec", "check_together", "published", "stack_spec"]
