"""What more ranks buy: the same problem on 1, 2, 4, ... of them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from foldfit.cost.devices import Device
from foldfit.errors import DoesNotFit
from foldfit.planner.build import make_plan
from foldfit.planner.hopeless import refuse_hopeless
from foldfit.planner.lengths import longest_n_res
from foldfit.planner.options import option_table
from foldfit.plans import Plan
from foldfit.problem import Problem


@dataclass(frozen=True)
class Ranked:
    """A policy on so many ranks, all sharing one sample: its plan, or why there is none, the longest n_res in the same memory a rank,
    and `efficiency`, seconds on one rank / (ranks * seconds); None where one of the two does not fit."""

    ranks: int
    plan: Plan | None
    error: DoesNotFit | None
    longest: int
    efficiency: float | None


def compare_ranks(
    problem: Problem, device: Device, numbers: Iterable[int], policy: str = "auto", on_ranks: Callable[[int], None] | None = None
) -> list[Ranked]:
    """`problem` on each number of ranks. Efficiency is that beside one rank under the same policy and limit a rank."""
    alone, out = None, []
    for ranks in sorted({1, *numbers}):
        if on_ranks:
            on_ranks(ranks)
        here = msgspec.structs.replace(problem, world=ranks, axial=ranks)
        plan, error = None, None
        try:
            refuse_hopeless(here)
            plan = make_plan(option_table(here, device), policy)
        except DoesNotFit as found:
            error = found
        alone = plan.promised.seconds if plan and ranks == 1 else alone
        efficiency = alone / (ranks * plan.promised.seconds) if alone and plan else None
        if ranks in set(numbers):
            out.append(Ranked(ranks, plan, error, longest_n_res(here, device, policy), efficiency))
    return out
