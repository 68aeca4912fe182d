"""The cases of an experiment, planned: by the plans that its folder has, or new ones."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from foldfit._version import __version__
from foldfit.bench.case import Case
from foldfit.bench.results import Result
from foldfit.cost.devices import Device
from foldfit.errors import BadInput, DoesNotFit
from foldfit.planner.build import chain_of, make_plan
from foldfit.planner.hopeless import refuse_hopeless
from foldfit.planner.options import OptionTable, StackOptions, option_table
from foldfit.planner.simulate import simulate
from foldfit.plans import Plan


@dataclass(frozen=True)
class Planned:
    """A case with what is known of it before it runs; no plan: it does not fit."""

    case: Case
    row: Result
    plan: Plan | None


def planned(case: Case, device: Device, folder: Path | None, known: Result | None) -> Planned:
    """By the plan that the folder has of it, or a new one, which it has then."""
    path = folder / "plans" / f"{re.sub(r'[^-+.@0-9A-Za-z]+', '_', case.key)}.json" if folder else None
    plain = Result(key=case.key, status="predicted", problem=case.problem, policy=case.policy, solver=case.solver, kernels=case.kernels)
    if known and known.status in ("predicted", "does not fit") and known.problem == case.problem:
        if known.status == "does not fit":
            return Planned(case, known, None)
        if path and path.is_file() and (plan := Plan.load(path)).problem == case.problem and plan.version == __version__:
            return Planned(case, msgspec.structs.replace(known, note=""), plan)
    try:
        refuse_hopeless(case.problem)
        table = only(option_table(case.problem, device), case.kernels)
        plan = make_plan(table, case.policy, case.solver)
    except DoesNotFit as error:
        return Planned(case, msgspec.structs.replace(plain, status="does not fit", note=error.where, promised_peak=error.need), None)
    if path:
        plan.save(path)
    p = plan.promised
    return Planned(case, msgspec.structs.replace(
        plain, costs=plan.costs, promised_peak=p.peak_bytes, promised_seconds=p.seconds, promised_exposed=p.exposed,
        promised_activation=simulate(chain_of(table.having(plan.choices), plan.hosted), plan.choices, plan.schedule).activation,
        gap=plan.bound.gap if plan.bound else 0.0,
    ), plan)  # fmt: skip


def only(table: OptionTable, kernels: tuple[str, ...]) -> OptionTable:
    """The table without the other kernels. Raises BadInput where a sub-module has none of them."""
    if not kernels:
        return table

    def left(stack: StackOptions) -> StackOptions:
        subs = tuple(
            replace(sub, options=tuple(o for o in sub.options if o.choice.kernel in kernels)) for sub in stack.sub_modules
        )  # fmt: skip
        for sub, whole in zip(subs, stack.sub_modules, strict=True):
            if not sub.options:
                has = ", ".join(dict.fromkeys(o.choice.kernel for o in whole.options))
                raise BadInput(f"--kernels {','.join(kernels)}: {sub.spec.name} has {has} here; add one of them")
        return replace(stack, sub_modules=subs)

    return table.with_stacks(left)
