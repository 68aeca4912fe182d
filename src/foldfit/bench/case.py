"""What is to be one row of a result file, and how often it runs."""

from dataclasses import dataclass
from math import inf

from foldfit.problem import Problem


@dataclass(frozen=True)
class Case:
    """One row to be. `key` names it among all of its experiment."""

    key: str
    problem: Problem
    policy: str
    solver: str = "chain"
    kernels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Runs:
    """How often a case runs: metered once, `warmup` times for nothing, `repeat` times against the clock, all of it as far as
    `budget` seconds go. A case whose run is promised to take longer by itself does not run."""

    repeat: int = 1
    warmup: int = 0
    budget: float = inf
