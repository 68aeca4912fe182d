"""The solvers, by name."""

from foldfit.planner import chain

SOLVERS = {"chain": chain.solve}
