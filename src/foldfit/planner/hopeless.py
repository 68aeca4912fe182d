"""Sizes far beyond the limit: told from what stays for a whole run, without a table of options."""

from foldfit.cost.resident import resident_bytes
from foldfit.errors import DoesNotFit
from foldfit.planner.options import CUDA_ALIGN, hostable
from foldfit.problem import Problem
from foldfit.units import format_bytes

FAR, ABSURD = 16, 2**40
"""Times the limit, and bytes that no card has. What stays is below what a plan needs, so that a refusal by it cannot say what would do:
where either is not reached, the planner looks for the need itself."""


def staying(problem: Problem) -> dict[str, int]:
    """By name, bytes that any plan holds at its end: parameters, inputs, masks, in training gradients, ..."""
    resident, backward = resident_bytes(problem, CUDA_ALIGN if problem.device_type == "cuda" else 1, hostable(problem))
    return resident | backward


def refuse_hopeless(problem: Problem) -> None:
    """Raises DoesNotFit, its need what stays alone, where that is `FAR` times the limit and absurd."""
    parts = staying(problem)
    need, where = sum(parts.values()), max(parts, key=parts.__getitem__)
    if need > max(FAR * problem.memory, ABSURD):
        raise DoesNotFit(
            f"what stays for the whole run needs {format_bytes(need)} ({where} {format_bytes(parts[where])}), "
            f"the limit is {format_bytes(problem.memory)}",
            need=need,
            have=problem.memory,
            where=where,
        )
