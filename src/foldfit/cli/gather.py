"""What a report says of a run, with what the planner knows beside it."""

from typing import Any

from foldfit._version import __version__
from foldfit.cost.devices import find_device
from foldfit.errors import DoesNotFit, NotSupported
from foldfit.planner.api import compare, frontier
from foldfit.planner.build import chain_of
from foldfit.planner.options import option_table
from foldfit.planner.simulate import simulate
from foldfit.plans import Plan
from foldfit.report.run import Candidate, Run, join


def run_of(name: str, plan: Plan, measured: dict[str, Any]) -> Run:
    """Raises NotSupported for a plan of another version, whose memory this one may count in another way."""
    if plan.version != __version__:
        raise NotSupported(f"{name}: the plan was made by foldfit {plan.version}, this is {__version__}: plan and run again")
    device = find_device(plan.problem.device)
    chain = chain_of(option_table(plan.problem, device))
    moments = simulate(chain, plan.choices, plan.schedule).moments
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
    return Run(name, plan, measured, join(moments, measured["steps"]), points, candidates)
