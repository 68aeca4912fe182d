"""What a report says of a run, with what the planner knows beside it."""

from dataclasses import replace
from math import isclose
from typing import Any

import msgspec

from foldfit._version import __version__
from foldfit.bench.baseline import compare as changed
from foldfit.bench.results import Results
from foldfit.bench.tables import table as lines_of
from foldfit.cost.devices import GPUS, Device, find_device
from foldfit.cost.resident import resident_bytes
from foldfit.errors import DoesNotFit, NotSupported
from foldfit.planner.api import frontier
from foldfit.planner.breakdown import breakdown
from foldfit.planner.build import chain_of, make_plan
from foldfit.planner.lengths import needs
from foldfit.planner.options import CUDA_ALIGN, option_table
from foldfit.planner.policies import POLICIES
from foldfit.planner.waits import last_sum, waits
from foldfit.plans import Plan
from foldfit.problem import Problem
from foldfit.report.run import FROM_HOST, TO_HOST, Candidate, Peak, Run, Scaled, Series, Sheet, Transfer, join
from foldfit.units import format_bytes


def planned_peaks(plan: Plan, steps: list[dict[str, Any]]) -> tuple[list[Peak], list[Transfer]]:
    """What the planner expected of each sub-module, beside the measured steps, and of copies to the host: by the costs that the
    plan stands on where they are still there."""
    device = find_device(plan.problem.device)
    stays = resident_bytes(plan.problem, CUDA_ALIGN if plan.problem.device_type == "cuda" else 1, plan.hosted)
    found: list[tuple[list[Peak], list[Transfer]]] = []
    for costs in ("", "modelled"):
        table = option_table(plan.problem, replace(device, costs=costs)).having(plan.choices)
        writes = {stack.spec.name: [sub.spec.writes[0] for sub in stack.sub_modules] for stack in table.stacks}
        timeline, parts = breakdown(chain_of(table, plan.hosted), plan.choices, plan.schedule, writes, *stays)
        peaks = join(timeline.moments, steps, parts, waits(table, plan.choices, plan.schedule))
        copies = [Transfer(TO_HOST if c.leaves else FROM_HOST, c.step, c.begin, c.end - c.begin) for c in timeline.copies]
        if isclose(timeline.seconds + last_sum(table), plan.promised.seconds, rel_tol=1e-6):
            return peaks, copies
        found.append((peaks, copies))
    return found[0]


def planned_run(name: str, plan: Plan, measured: dict[str, Any]) -> Run:
    """Without what else could have been planned. Raises NotSupported for a plan of another version, whose memory this one may
    count in another way."""
    if plan.version != __version__:
        raise NotSupported(f"{name}: the plan was made by foldfit {plan.version}, this is {__version__}: plan and run again")
    peaks, copies = planned_peaks(plan, measured["steps"])
    return Run(name, plan, measured, peaks, copies=copies)


def run_of(name: str, plan: Plan, measured: dict[str, Any]) -> Run:
    """Raises NotSupported for a plan of another version."""
    run = planned_run(name, plan, measured)
    device = find_device(plan.problem.device)
    candidates = [candidate(plan.problem, device, policy) for policy in [*POLICIES, "auto"]]
    try:
        points = frontier(plan.problem, device, 40).points
    except DoesNotFit:
        points = []
    cards = {card.name: card.memory - card.reserved for card in GPUS}
    return replace(run, frontier=points, candidates=candidates, needs=needs(plan.problem, device), cards=cards)


def candidate(problem: Problem, device: Device, policy: str) -> Candidate:
    """What a policy promises, within the problem's limit or, where it does not fit, within its own need."""
    try:
        promised, fits = make_plan(option_table(problem, device), policy).promised, True
    except DoesNotFit as error:
        enough = msgspec.structs.replace(problem, memory=error.need)
        promised, fits = make_plan(option_table(enough, device), policy).promised, False
    return Candidate(policy, promised.peak_bytes, promised.seconds, fits)


def sheet_of(name: str, results: Results, baseline: Results | None = None) -> Sheet:
    """Raises BadInput where the baseline is of another experiment or machine."""
    changes = str(changed(baseline, results)) if baseline else ""
    tiny = "; sizes and blocks are the study's divided by 16 and 12, its own figures are in full" if results.scale == "tiny" else ""
    return Sheet(name, f"{results.origin}, {results.date}{tiny}", *lines_of(results), changes, series_of(results))


def series_of(results: Results) -> list[Series]:
    """The same problem under the same policy on several numbers of ranks that share a sample."""
    out: dict[tuple, Series] = {}
    for r in results.results:
        p = r.problem
        if r.promised_seconds and p.world == p.axial:
            alone = msgspec.structs.replace(p, world=1, axial=1)
            stacks = " + ".join(f"{s.blocks} x {s.name}" + (f" ({s.rows} rows)" if s.rows else "") for s in p.stacks)
            limits = {o.problem.memory for o in results.results if (o.policy, o.solver, o.kernels) == (r.policy, r.solver, r.kernels)}
            words = [r.policy, r.solver if r.solver not in ("", "none", "chain") else "", *r.kernels]
            words += [f"in {format_bytes(p.memory)}"] if len(limits) > 1 else []
            series = Series(f"{stacks}, {p.n_res} residues, {p.mode}, {p.precision}", " ".join(filter(None, words)), [])
            series = out.setdefault((msgspec.json.encode(alone), r.policy, r.solver, r.kernels), series)
            series.points.append(Scaled(p.axial, r.promised_seconds, r.promised_exposed, r.seconds, r.exposed))
    return [series for series in out.values() if len({p.ranks for p in series.points}) > 1]
