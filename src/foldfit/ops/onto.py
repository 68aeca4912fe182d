"""Where an update ends up: an op whose result is the whole update (namespace.py names them) can write source + update * factors itself,
so that no tensor holds the update.

The op asks for the residual under way, and returns its target once it took it; whatever it reads of rows that it writes it has read
before, for target, source and those rows may be one tensor. Of an op that does not ask the update is added afterwards.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Residual:
    """target [r, n, c] or [r, c] = source + update * factors: as `Ops.add`, whose arguments they are."""

    target: Tensor
    source: Tensor
    factors: Tensor | None
    taken: bool = False

    @property
    def flat(self) -> bool:
        """Whether update and target are rows of c channels one after the other, and nothing else."""
        return self.factors is None and self.target.is_contiguous() and self.source.is_contiguous()

    def take(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """For the op that writes it and returns the target."""
        self.taken = True
        return self.target, self.source, self.factors

    def settle(self, update: Tensor, add: Callable[[Tensor, Tensor, Tensor, Tensor | None], None]) -> None:
        """Adds the update unless an op did."""
        if self.taken:
            assert update is self.target, "an op took the residual whose result is not the whole update"
        else:
            add(self.target, self.source, update, self.factors)


UNDER_WAY: ContextVar[Residual | None] = ContextVar("residual", default=None)


@contextmanager
def onto(target: Tensor, source: Tensor, factors: Tensor | None) -> Iterator[Residual]:
    """The update that is called in this context is for target = source + update * factors alone."""
    out = Residual(target, source, factors)
    token = UNDER_WAY.set(out)
    try:
        yield out
    finally:
        UNDER_WAY.reset(token)


def residual(shape: tuple[int, ...]) -> Residual | None:
    """The one under way for an update of this shape; None: it is wanted as a tensor."""
    out = UNDER_WAY.get()
    return out if out and not out.taken and out.target.shape == shape else None
