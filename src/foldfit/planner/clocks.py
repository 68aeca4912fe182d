"""Plans whose kernels are launched one by one: the host runs ahead of the device, so that a run takes the larger of their two sums,
not the sum over sub-modules of the larger of the two.

By one clock a plan is solved like any other. What it takes is its sum by the slower clock, and no plan takes less than the bound by
either: a plan whose own clock is the slower one is as good as its own bound says.
"""

from dataclasses import replace

import msgspec

from foldfit.planner.options import Option, OptionTable
from foldfit.plans import Bound, Plan


def two_clocks(table: OptionTable) -> bool:
    """Whether host and device each have their own: copies to the host and collectives are of the device's time alone, and waited for."""
    p = table.problem
    return p.launch == "eager" and p.device_type == "cuda" and p.world == 1 and not p.host_memory and table.clock is None


def clocked(table: OptionTable, clock: int) -> OptionTable:
    """The table by one of them: 0 the device's, 1 the host's."""

    def by(option: Option) -> Option:
        seconds, back = option.clocks[clock]
        return replace(option, seconds=seconds, back_seconds=back)

    stacks = tuple(
        replace(stack, sub_modules=tuple(replace(sub, options=tuple(map(by, sub.options))) for sub in stack.sub_modules))
        for stack in table.stacks
    )
    return replace(table, stacks=stacks, clock=clock)


def by_both(table: OptionTable, policy: str, solver: str) -> Plan:
    """The better of the plans by either clock. Raises DoesNotFit."""
    from foldfit.planner.build import chain_of, make_plan
    from foldfit.planner.simulate import simulate

    found = []
    for clock in (0, 1):
        plan = make_plan(clocked(table, clock), policy, solver)
        other = simulate(chain_of(clocked(table, 1 - clock)), plan.choices, list(plan.schedule)).seconds
        found.append((max(plan.promised.seconds, other), plan))
        if other <= plan.promised.seconds:
            break
    seconds, best = min(found, key=lambda each: each[0])
    bound = max(plan.bound.seconds for _, plan in found if plan.bound)
    promised = msgspec.structs.replace(best.promised, seconds=seconds)
    return msgspec.structs.replace(best, promised=promised, bound=Bound(bound, seconds / bound - 1)).signed()
