"""What a report says of a run, with what the planner knows beside it."""

from dataclasses import replace
from math import isclose
from typing import Any

from foldfit._version import __version__
from foldfit.bench.baseline import compare as changed
from foldfit.bench.results import Results
from foldfit.bench.tables import table as lines_of
from foldfit.cost.devices import GPUS, find_device
from foldfit.cost.resident import resident_bytes
from foldfit.errors import DoesNotFit, NotSupported
from foldfit.planner.api import compare, frontier
from foldfit.planner.breakdown import breakdown
from foldfit.planner.build import chain_of
from foldfit.planner.lengths import needs
from foldfit.planner.options import CUDA_ALIGN, option_table
from foldfit.plans import Plan
from foldfit.report.run import Candidate, Peak, Run, Sheet, join


def planned_peaks(plan: Plan, steps: list[dict[str, Any]]) -> list[Peak]:
    """What the planner expected of each sub-module, by the costs that the plan stands on where they are still there, beside the
    measured steps."""
    device = find_device(plan.problem.device)
    stays = resident_bytes(plan.problem, CUDA_ALIGN if plan.problem.device_type == "cuda" else 1)
    found: list[Peak] = []
    for costs in ("", "modelled"):
        table = option_table(plan.problem, replace(device, costs=costs))
        writes = {stack.spec.name: [sub.spec.writes[0] for sub in stack.sub_modules] for stack in table.stacks}
        timeline, parts = breakdown(chain_of(table), plan.choices, plan.schedule, writes, *stays)
        peaks = join(timeline.moments, steps, parts)
        if isclose(timeline.seconds, plan.promised.seconds, rel_tol=1e-6):
            return peaks
        found = found or peaks
    return found


def planned_run(name: str, plan: Plan, measured: dict[str, Any]) -> Run:
    """Without what else could have been planned. Raises NotSupported for a plan of another version, whose memory this one may
    count in another way."""
    if plan.version != __version__:
        raise NotSupported(f"{name}: the plan was made by foldfit {plan.version}, this is {__version__}: plan and run again")
    return Run(name, plan, measured, planned_peaks(plan, measured["steps"]))


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
        points = frontier(plan.problem, device, 40).points
    except DoesNotFit:
        points = []
    cards = {card.name: card.memory - card.reserved for card in GPUS}
    return replace(run, frontier=points, candidates=candidates, needs=needs(plan.problem, device), cards=cards)


def sheet_of(name: str, results: Results, baseline: Results | None = None) -> Sheet:
    """Raises BadInput where the baseline is of another experiment or machine."""
    changes = str(changed(baseline, results)) if baseline else ""
    tiny = "; sizes and blocks are the study's divided by 16 and 12, its own figures are in full" if results.scale == "tiny" else ""
    return Sheet(name, f"{results.origin}, {results.date}{tiny}", *lines_of(results), changes)
