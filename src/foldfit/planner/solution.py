"""What every solver returns, and how steps become a schedule with named choices."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from foldfit.planner.prune import fastest, stairs
from foldfit.planner.simulate import Timeline, simulate
from foldfit.planner.table import Chain, Forward, Record

Choices = dict[str, tuple[Hashable, ...]]
"""A name -> the option key of each sub-module of a block."""


@dataclass(frozen=True)
class Step:
    """A step of a schedule; `options`: of each sub-module, for `run` and `record`."""

    verb: str
    block: int = -1
    options: tuple[Forward | Record, ...] = ()


@dataclass(frozen=True)
class Frontier:
    """Least seconds, and their lower bound, by memory limit. `limits`: bytes, rising; infinite where nothing fits.

    `complete`: the last limit is enough to keep everything, so that more buys nothing.
    """

    limits: np.ndarray
    seconds: np.ndarray
    bound: np.ndarray
    complete: bool = False

    def at(self, limit: int) -> tuple[float, float]:
        """(seconds, bound) at a limit in bytes: those of the last slot below it, and of the next one above."""
        below = int(np.searchsorted(self.limits, limit, side="right")) - 1
        above = int(np.searchsorted(self.limits, limit, side="left"))
        seconds = float(self.seconds[below]) if below >= 0 else float("inf")
        return seconds, float(self.bound[min(above, len(self.bound) - 1)])


@dataclass(frozen=True)
class Solution:
    """A plan in abstract numbers. `peak` bytes, `peak_at` (sub-module and step) and `seconds` are those of simulate().

    `bound_seconds`: no persistent nested schedule over the same options that fits takes less. `host_bytes`, `exposed` seconds:
    of what waits on the host.
    """

    choices: Choices
    schedule: tuple[str, ...]
    seconds: float
    peak: int
    peak_at: str
    bound_seconds: float
    frontier: Frontier | None = None
    host_bytes: int = 0
    exposed: float = 0.0

    @property
    def gap(self) -> float:
        """How far `seconds` may be from the best, as a part of the bound."""
        return self.seconds / self.bound_seconds - 1 if self.bound_seconds else 0.0


class Solver(Protocol):
    """Raises DoesNotFit where no schedule of the solver's kind stays within `limit` bytes."""

    def __call__(self, chain: Chain, limit: int, slots: int = ...) -> Solution: ...


def letters(i: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    return (letters(i // 26 - 1) if i >= 26 else "") + chr(ord("a") + i % 26)


def write(steps: Sequence[Step]) -> tuple[Choices, tuple[str, ...]]:
    """The named choices and the schedule of steps."""
    names: dict[tuple[Hashable, ...], str] = {}
    lines = []
    for step in steps:
        words = [step.verb] if step.block < 0 else [step.verb, str(step.block)]
        if step.options:
            words.append(names.setdefault(tuple(o.key for o in step.options), letters(len(names))))
        lines.append(" ".join(words))
    return {name: keys for keys, name in names.items()}, tuple(lines)


def timeline_of(chain: Chain, steps: Sequence[Step]) -> Timeline:
    return simulate(chain, *write(steps))


def faster_runs(chain: Chain, steps: Sequence[Step], limit: int) -> list[Step]:
    """The same steps, with the fastest option for each plain run that the memory free at its moment allows: runs leave
    nothing behind, so that each is a choice of its own."""
    steps_of = {id(sub): stairs(sub) for stage, _ in chain.runs for sub in stage.subs}
    blocks = chain.stages()
    moments = (m for m in timeline_of(chain, steps).moments if not m.between)
    out = []
    for step in steps:
        if step.verb != "run":
            for _ in blocks[step.block].subs if step.verb in ("record", "backward") else ():
                next(moments)
            out.append(step)
            continue
        options = []
        for sub, option in zip(blocks[step.block].subs, step.options, strict=True):
            moment = next(moments)
            options.append(fastest(steps_of[id(sub)], limit - moment.alive) or option)
        out.append(Step("run", step.block, tuple(options)))
    return out


def solved(chain: Chain, steps: Sequence[Step], bound: float, frontier: Frontier | None = None) -> Solution:
    """The solution that the steps are. A bound above their seconds can only be rounding of floats."""
    choices, schedule = write(steps)
    timeline = simulate(chain, choices, schedule)
    bound = min(bound, timeline.seconds)
    return Solution(
        choices, schedule, timeline.seconds, timeline.peak, timeline.peak_at, bound, frontier, timeline.host_bytes, timeline.exposed
    )
