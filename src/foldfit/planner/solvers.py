"""The solvers by name, all of one signature: (chain, limit in bytes, slots) -> Solution, or DoesNotFit."""

from foldfit.planner import chain, exhaustive, study
from foldfit.planner.solution import Solver

SOLVERS: dict[str, Solver] = {"chain": chain.solve, "study": study.solve, "exhaustive": exhaustive.solve}
