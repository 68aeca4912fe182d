"""What a report says of a run, with what the planner knows beside it."""

from dataclasses import replace
from math import isclose
from typing import Any

from foldfit._version import __version__
from foldfit.cost.devices import find_device
from foldfit.errors import DoesNotFit, NotSupported
from foldfit.planner.api import compare, frontier
from foldfit.planner.build import chain_of
from foldfit.planner.options import option_table
from foldfit.planner.simulate import Moment, simulate
from foldfit.plans import Plan
from foldfit.report.run import Candidate, Run, join


def moments_of(plan: Plan) -> list[Moment]:
    """What the planner expected of each sub-module, by the costs that the plan stands on, where they are still there."""
    device = find_device(plan.problem.device)
    found: list[Moment] = []
    for costs in ("", "modelled"):
        chain = chain_of(option_table(plan.problem, replace(device, costs=costs)))
        timeline = simulate(chain, plan.choices, plan.schedule)
        if isclose(timeline.seconds, plan.promised.seconds, rel_tol=1e-6):
            return timeline.moments
        found = found or timeline.moments
    return found


def planned_run(name: str, plan: Plan, measured: dict[str, Any]) -> Run:
    """Without what else could have been planned. Raises NotSupported for a plan of another version, whose memory this one may
    count in another way."""
    if plan.version != __version__:
        raise NotSupported(f"{name}: the plan was made by foldfit {plan.version}, this is {__version__}: plan and run again")
    return Run(name, plan, measured, join(moments_of(plan), measured["steps"]))


def run_of(name: str, plan: Plan, measured: dict[str, Any]) -> Run:
    """Raises NotSupported for a plan of another version."""
    run = planned_run(name, plan, measured)
    device = find_device(plan.problem.device)
    candidates = []
    for row in compare(plan.problem, device):
        if row.plan:
            candidates.append(Candidate(row.policy, row.plan.promised.peak_bytes, row.plan.promised.seconds))
        elif row.error:
            candidates.append(Candidate(row.policy, row.error.need, None))
    try:
        points = frontier(plan.problem, device, 24).points
    except DoesNotFit:
        points = []
    return replace(run, frontier=points, candidates=candidates)
