"""What users ask the planner: a plan, a comparison of policies, the frontier, the longest protein."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from foldfit.cost.devices import Device, find_device
from foldfit.errors import DoesNotFit
from foldfit.plan import Plan
from foldfit.planner.build import chain_of, make_plan
from foldfit.planner.options import option_table
from foldfit.planner.policies import POLICIES
from foldfit.problem import Problem
from foldfit.units import format_bytes


def plan_problem(problem: Problem, device: Device | None = None, policy: str = "auto", solver: str = "chain") -> Plan:
    """The fastest plan that fits. Raises DoesNotFit: need, have, what would fit, what to type."""
    device = device or find_device(problem.device)
    try:
        return make_plan(option_table(problem, device), policy, solver)
    except DoesNotFit as error:
        longest = longest_n_res(problem, device, policy, below=problem.n_res)
        fits = f"the longest n_res that fits is {longest}" if longest else "no n_res fits: even the parameters and inputs are too much"
        raise DoesNotFit(
            f"{error}; {fits}; give --memory {format_bytes(error.need, up=True)} or more"
            + ("" if policy == "auto" else ", or --policy auto"),
            need=error.need, have=error.have, where=error.where,
        ) from None


def fits(problem: Problem, device: Device, policy: str = "auto") -> bool:
    try:
        make_plan(option_table(problem, device), policy)
    except DoesNotFit:
        return False
    return True


def longest_n_res(problem: Problem, device: Device, policy: str = "auto", below: int | None = None) -> int:
    """The largest n_res that a plan of this policy fits with, 0 where none does: need grows with n_res, so by bisection."""

    def ok(n_res: int) -> bool:
        return fits(msgspec.structs.replace(problem, n_res=n_res), device, policy)

    low, high = 0, below or 1
    if below is None:
        while ok(high):
            low, high = high, 2 * high
    while high - low > max(1, low // 512):
        middle = (low + high) // 2
        low, high = (middle, high) if ok(middle) else (low, middle)
    return low


@dataclass(frozen=True)
class Row:
    """One policy in a comparison: its plan, or why there is none."""

    policy: str
    plan: Plan | None
    error: DoesNotFit | None


def compare(problem: Problem, device: Device | None = None, policies: Iterable[str] = (), on_policy: Callable[[str], None] | None = None) -> list[Row]:
    """Every policy side by side, `auto` last."""
    device = device or find_device(problem.device)
    table = option_table(problem, device)
    rows = []
    for policy in list(policies) or [*POLICIES, "auto"]:
        if on_policy:
            on_policy(policy)
        try:
            rows.append(Row(policy, make_plan(table, policy), None))
        except DoesNotFit as error:
            rows.append(Row(policy, None, error))
    return rows


__all__ = ["Row", "chain_of", "compare", "fits", "longest_n_res", "plan_problem"]
