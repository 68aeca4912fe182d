"""What users ask the planner: a plan, a comparison of policies, the frontier, the longest protein."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from foldfit.cost.devices import Device, find_device
from foldfit.errors import DoesNotFit
from foldfit.planner.build import chain_of, make_plan
from foldfit.planner.chain import frontier as chain_frontier
from foldfit.planner.options import OptionTable, option_table
from foldfit.planner.policies import POLICIES
from foldfit.plans import Plan
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
            need=error.need,
            have=error.have,
            where=error.where,
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


def compare(
    problem: Problem, device: Device | None = None, policies: Iterable[str] = (), on_policy: Callable[[str], None] | None = None
) -> list[Row]:
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


def frontier(problem: Problem, device: Device | None = None, points: int = 12) -> list[tuple[int, float, float]]:
    """(limit in bytes, seconds, lower bound) from the least memory that any plan needs to what keeping everything takes.

    From one solve; a limit's shadow price is the slope. Raises DoesNotFit where not even the problem's own limit suffices.
    """
    device = device or find_device(problem.device)
    table = option_table(problem, device)
    if problem.mode == "infer":
        return inference_frontier(table, points)
    curve = chain_frontier(chain_of(table), problem.memory)
    finite = [i for i, s in enumerate(curve.seconds) if s < float("inf")]
    picks = sorted({finite[round(k * (len(finite) - 1) / (points - 1))] for k in range(points)})
    return [(int(curve.limits[i]), float(curve.seconds[i]), float(curve.bound[i])) for i in picks]


def inference_frontier(table: OptionTable, points: int) -> list[tuple[int, float, float]]:
    """Exact: seconds only change where another option of a sub-module begins to fit."""
    base = chain_of(table).base_forward
    copy = 0 if table.problem.inputs == "overwritten" else max(sum(s.state.values()) for s in table.stacks)
    subs = [(stack.blocks, sub.options) for stack in table.stacks for sub in stack.sub_modules]
    least = max(min(o.bytes.forward for o in options) for _, options in subs)
    steps = sorted({o.bytes.forward for _, options in subs for o in options if o.bytes.forward >= least})
    seconds = [sum(n * min(o.seconds for o in options if o.bytes.forward <= room) for n, options in subs) for room in steps]
    useful = [i for i, s in enumerate(seconds) if i == 0 or s < seconds[i - 1]]
    picks = sorted({useful[round(k * (len(useful) - 1) / max(1, points - 1))] for k in range(points)})
    return [(base + copy + steps[i], seconds[i], seconds[i]) for i in picks]


__all__ = ["Row", "compare", "fits", "frontier", "longest_n_res", "plan_problem"]
