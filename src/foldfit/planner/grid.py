"""Slots of memory: how bytes become the few hundred steps that the chain's tables run over."""

from dataclasses import dataclass
from math import isqrt, sqrt

import numpy as np

from foldfit.planner.prune import largest_record
from foldfit.planner.table import Chain

SLOTS = 500
"""Default resolution: the geometric mean of the number of slots of the memory and of a block's largest record."""

BEYOND = 12
"""The tables reach 1/BEYOND past the limit: sizes are rounded up, so that plans from there may still fit."""


@dataclass(frozen=True)
class Grid:
    """Slot m stands for `top - (slots - m) * unit` bytes, of which the slot `slots` is the limit.

    A slot is `ratio` fine slots, in which a block's saved bytes are added up. `ticks` a byte make all of them whole
    numbers: a fine slot is `fine` ticks.
    """

    top: int
    slots: int
    last: int
    ratio: int
    ticks: int
    fine: int

    @property
    def offset(self) -> int:
        """Ticks of slot 0, less than a slot."""
        return self.top * self.ticks - self.slots * self.ratio * self.fine

    @property
    def exact(self) -> bool:
        """Whether every whole number of bytes is a slot, so that nothing is rounded."""
        return self.fine == self.ticks and self.ratio == 1

    def bytes(self) -> np.ndarray:
        """Whole bytes of every slot."""
        return (self.offset + np.arange(self.last + 1, dtype=np.int64) * self.ratio * self.fine) // self.ticks

    def fine_slots(self, size: np.ndarray, up: bool) -> np.ndarray:
        ticks = size.astype(np.int64) * self.ticks
        return -(-ticks // self.fine) if up else ticks // self.fine

    def slots_of(self, size: int, up: bool, fine: int | np.ndarray = 0) -> int | np.ndarray:
        """Slots of `size` bytes and `fine` fine slots."""
        ticks, slot = size * self.ticks + fine * self.fine, self.ratio * self.fine
        return -(-ticks // slot) if up else ticks // slot

    def fine_need(self, size: np.ndarray) -> np.ndarray:
        """The least r so that r fine slots above slot 0 hold `size` bytes, exactly."""
        return -((self.offset - size.astype(np.int64) * self.ticks) // self.fine)


def make_grid(chain: Chain, top: int, slots: int = SLOTS) -> Grid:
    """The grid of a memory of `top` bytes. The unit divides the state of the longest run, so that checkpoints, of which
    there are many, are hardly rounded. Raises ValueError for fewer than 1 slot or a negative `top`."""
    if slots < 1 or top < 0:
        raise ValueError(f"expected slots >= 1 and top >= 0, got {slots} and {top}")
    span = min(top, max(largest_record(stage) for stage, _ in chain.runs))
    if top <= slots:
        return Grid(top, top, top, 1, 1, 1)
    wanted = max(1, isqrt(top * max(1, span)) // slots)
    state = max(chain.runs, key=lambda run: run[1])[0].state
    parts = max(1, round(state / wanted))
    unit, parts = (state, parts) if 0.5 <= state / parts / wanted <= 2 else (wanted, 1)
    # Of a memory many times the largest record many are alive, each with the rounding of its sub-modules.
    finer = min(2, max(1, sqrt(top / max(1, span)) / 1.5))
    ratio = max(1, round(finer * unit * slots / (parts * max(1, span))))
    count = top * parts // unit
    return Grid(top, count, count + count // BEYOND + 1, ratio, parts * ratio, unit)


def all_kept(chain: Chain) -> int:
    """Bytes beyond base_backward that are enough for any schedule that keeps everything."""
    peaks = (
        stage.state + largest_record(stage) + max(max(r.inter, r.back) for sub in stage.subs for r in sub.record) for stage, _ in chain.runs
    )
    return sum(count * (largest_record(stage) + stage.state) for stage, count in chain.runs) + max(peaks)
