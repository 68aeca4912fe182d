"""The solvers by name, all of one signature: (chain, limit in bytes, slots) -> Solution, or DoesNotFit."""

from foldfit.planner import exhaustive, offload, study
from foldfit.planner.solution import Solver

SOLVERS: dict[str, Solver] = {"chain": offload.solve, "study": study.solve, "exhaustive": exhaustive.solve}
