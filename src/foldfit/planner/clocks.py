"""Plans whose kernels are launched one by one: the host runs ahead of the device, so that a run takes the larger of their two sums,
not the sum over sub-modules of the larger of the two.

By one clock a plan is solved like any other. What it takes is its sum by the slower clock, and no plan takes less than the bound by
either: a plan whose own clock is the slower one is as good as its own bound says.
"""

from dataclasses import replace

import msgspec

from foldfit.planner.accuracy import expected_error
from foldfit.planner.options import Option, OptionTable, StackOptions
from foldfit.plans import Bound, Plan


def two_clocks(table: OptionTable) -> bool:
    """Whether host and device each have their own: copies to the host are of the device's time alone, and waited for."""
    p = table.problem
    return p.launch == "eager" and p.device_type == "cuda" and not p.host_memory and table.clock is None


def clocked(table: OptionTable, clock: int) -> OptionTable:
    """The table by one of them: 0 the device's, 1 the host's."""

    def by(option: Option) -> Option:
        seconds, back = option.clocks[clock]
        return replace(option, seconds=seconds, back_seconds=back)

    def all_by(stack: StackOptions) -> StackOptions:
        return replace(stack, sub_modules=tuple(replace(sub, options=tuple(map(by, sub.options))) for sub in stack.sub_modules))

    loose = clocked(table.loose, clock) if table.loose else None
    return replace(table.with_stacks(all_by), clock=clock, loose=loose)


def seconds_by(table: OptionTable, clock: int, plan: Plan) -> float:
    """What a plan takes by one of them."""
    from foldfit.planner.build import chain_of
    from foldfit.planner.simulate import simulate

    return simulate(chain_of(clocked(table.having(plan.choices), clock)), plan.choices, list(plan.schedule)).seconds


def host_decides(table: OptionTable, plan: Plan) -> bool:
    """Whether the host is the slower one."""
    return two_clocks(table) and seconds_by(table, 1, plan) > seconds_by(table, 0, plan)


def by_both(table: OptionTable, policy: str, solver: str) -> Plan:
    """The better of the plans by either clock. Raises DoesNotFit."""
    from foldfit.planner.build import make_plan

    found = []
    for clock in (0, 1):
        plan = make_plan(clocked(table, clock), policy, solver)
        other = seconds_by(table, 1 - clock, plan)
        found.append((max(plan.promised.seconds, other), plan, clock if other <= plan.promised.seconds else 1 - clock))
        if other <= plan.promised.seconds:
            break
    seconds, best, slower = min(found, key=lambda each: each[0])
    bound = max(plan.bound.seconds for _, plan, _ in found if plan.bound)
    error = expected_error(clocked(table, slower), best.choices, list(best.schedule))
    promised = msgspec.structs.replace(best.promised, seconds=seconds, seconds_error=error)
    return msgspec.structs.replace(best, promised=promised, bound=Bound(bound, seconds / bound - 1)).signed()
