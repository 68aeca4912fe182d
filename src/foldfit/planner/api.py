"""What users ask the planner: a plan, a comparison of policies, the frontier, the longest protein."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import inf

import msgspec
import numpy as np

from foldfit.cost.devices import GIB, GPUS, Device, find_device
from foldfit.errors import BadInput, DoesNotFit
from foldfit.planner.build import chain_of, make_plan
from foldfit.planner.chain import frontier as chain_frontier
from foldfit.planner.clocks import clocked, host_decides, two_clocks
from foldfit.planner.hopeless import refuse_hopeless
from foldfit.planner.lengths import longest_n_res
from foldfit.planner.options import OptionTable, option_table
from foldfit.planner.policies import POLICIES
from foldfit.planner.price import NextSize, next_size, shadow_price
from foldfit.planner.solution import Frontier
from foldfit.plans import Plan
from foldfit.problem import Problem
from foldfit.units import format_bytes


def plan_problem(problem: Problem, device: Device | None = None, policy: str = "auto", solver: str = "chain") -> Plan:
    """The fastest plan that fits. Raises DoesNotFit: need, have, what would fit, what to type."""
    device = device or find_device(problem.device)
    try:
        refuse_hopeless(problem)
        return make_plan(option_table(problem, device), policy, solver)
    except DoesNotFit as error:
        longest = longest_n_res(problem, device, policy, below=problem.n_res)
        fits = f"the longest n_res that fits is {longest}" if longest else "no n_res fits: even the parameters and inputs are too much"
        raise DoesNotFit(
            f"{error}; {fits}{host_would(problem, device, policy)}; give --memory {format_bytes(error.need, up=True)} or more"
            + ("" if policy == "auto" else ", or --policy auto"),
            need=error.need,
            have=error.have,
            where=error.where,
        ) from None


GRAPHS_WORTH = 0.8
"""Of the seconds kernel by kernel: what graphs take at most where they are worth a word."""


def as_graphs(plan: Plan, device: Device, policy: str = "auto", solver: str = "chain") -> float:
    """Seconds of the same in the same memory as CUDA graphs, where the host that launches kernel by kernel makes it much slower; 0
    elsewhere."""
    p = plan.problem
    if p.inputs == "overwritten" or not host_decides(option_table(p, device), plan):
        return 0.0
    try:
        found = make_plan(option_table(msgspec.structs.replace(p, launch="graph"), device), policy, solver).promised.seconds
    except DoesNotFit:
        return 0.0
    return found if found < GRAPHS_WORTH * plan.promised.seconds else 0.0


def host_would(problem: Problem, device: Device, policy: str) -> str:
    """What overwritten inputs, and host memory, would do for a problem that does not fit."""
    if problem.mode == "train":
        return "; host memory makes a step faster, not smaller" if problem.host_memory else ""
    if policy != "auto" or problem.axial > 1 or problem.launch == "graph":
        return ""
    host = 0 if problem.device_type == "cpu" else 2**62  # of a processor it is the same memory
    more = msgspec.structs.replace(problem, inputs="overwritten", host_memory=host)
    try:
        refuse_hopeless(more)
        found = make_plan(option_table(more, device))
    except DoesNotFit:
        return ""
    there = found.promised.host_bytes
    return "; it fits with --inputs overwritten" + (f" --host-memory {format_bytes(there, up=True)}" if there else "")


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
    names, rows = list(policies) or [*POLICIES, "auto"], []
    try:
        refuse_hopeless(problem)
    except DoesNotFit as error:
        return [Row(policy, None, error) for policy in names]
    table = option_table(problem, device)
    for policy in names:
        if on_policy:
            on_policy(policy)
        try:
            rows.append(Row(policy, make_plan(table, policy), None))
        except DoesNotFit as error:
            rows.append(Row(policy, None, error))
    return rows


@dataclass(frozen=True)
class Outlook:
    """What memory buys. `points`: (limit in bytes, seconds, lower bound), from the least memory that any plan needs on;
    `price`: seconds that a byte more than the problem's limit saves at the best, `gib`: that one GiB more saves; `next_size`: the next
    larger card's memory. All without host memory."""

    points: list[tuple[int, float, float]]
    price: float
    gib: float
    next_size: NextSize | None


def frontier(problem: Problem, device: Device | None = None, points: int = 12) -> Outlook:
    """The memory-time frontier, from one solve. Raises DoesNotFit where not even the next larger card suffices."""
    if points < 1:
        raise BadInput(f"points: expected at least 1, got {points}")
    device = device or find_device(problem.device)
    sizes = {d.memory - d.reserved for d in GPUS}
    top = min((size for size in sizes if size > problem.memory), default=problem.memory)
    refuse_hopeless(msgspec.structs.replace(problem, host_memory=0, memory=top))
    table = option_table(msgspec.structs.replace(problem, host_memory=0), device)
    curve = frontier_of(table, top)
    useful = np.array([i for i in np.flatnonzero(np.isfinite(curve.seconds)) if i == 0 or curve.seconds[i] < curve.seconds[i - 1]])
    steps = np.log(curve.limits[useful])  # as many per doubling: the first GiB are the dear ones
    picks = sorted({useful[int(np.abs(steps - at).argmin())] for at in np.linspace(steps[0], steps[-1], points)})
    shown = [(int(curve.limits[i]), float(curve.seconds[i]), float(curve.bound[i])) for i in picks]
    here, more = (curve.at(problem.memory + size)[0] for size in (0, GIB))
    return Outlook(shown, shadow_price(curve, problem.memory), here - more if here < inf else inf, next_size(curve, problem.memory, sizes))


def frontier_of(table: OptionTable, top: int) -> Frontier:
    """Where host and device have clocks of their own, the slower one's at each limit: no plan takes less by either."""
    if table.loose:
        return lower(frontier_of(replace(table, loose=None), top), frontier_of(table.loose, top))
    if two_clocks(table):
        device, host = (frontier_of(clocked(table, clock), top) for clock in (0, 1))
        seconds, bound = np.maximum(device.seconds, host.seconds), np.maximum(device.bound, host.bound)
        return Frontier(device.limits, seconds, bound, device.complete)
    return inference_frontier(table) if table.problem.mode == "infer" else chain_frontier(chain_of(table), top)


def lower(a: Frontier, b: Frontier) -> Frontier:
    """At each limit the better of two that are exact."""
    limits = np.union1d(a.limits, b.limits)
    seconds = np.array([min(a.at(limit)[0], b.at(limit)[0]) for limit in limits])
    return Frontier(limits, seconds, seconds, a.complete and b.complete)


def inference_frontier(table: OptionTable) -> Frontier:
    """Exact: seconds only change where another option of a sub-module begins to fit, beside its stack's copy of kept inputs."""
    base, kept = chain_of(table).base_forward, table.problem.inputs == "kept"
    subs = [
        (stack.blocks, [(o.bytes.forward + kept * sum(stack.state.values()), o.seconds) for o in sub.options])
        for stack in table.stacks
        for sub in stack.sub_modules
    ]
    least = max(min(size for size, _ in options) for _, options in subs)
    steps = sorted({size for _, options in subs for size, _ in options if size >= least})
    seconds = np.array([sum(n * min(s for size, s in options if size <= room) for n, options in subs) for room in steps])
    return Frontier(np.array(steps) + base, seconds, seconds, complete=True)
