"""Seconds in which a plan for several ranks waits for collectives."""

from collections.abc import Mapping, Sequence

from foldfit.cost.collectives import all_reduce
from foldfit.cost.memory import parameter_bytes
from foldfit.planner.options import OptionTable
from foldfit.plans import Choice
from foldfit.problem import ITEMSIZE


def waits(table: OptionTable, choices: Mapping[str, Sequence[Choice]], schedule: Sequence[str]) -> float:
    """Of relays and gathers, which the computation waits for at every step."""
    stack_of = [stack for stack in table.stacks for _ in range(stack.blocks)]
    found = {id(sub): {o.choice: (o.exposed, o.back_exposed) for o in sub.options} for stack in table.stacks for sub in stack.sub_modules}
    total, recorded = 0.0, {}
    for step in schedule:
        verb, block, name = (*step.split(), "", "")[:3]
        if verb == "record":
            recorded[block] = name
        if verb in ("run", "record", "backward"):
            subs = stack_of[int(block)].sub_modules
            chosen = choices[name or recorded[block]]
            total += sum(found[id(sub)][choice][verb == "backward"] for sub, choice in zip(subs, chosen, strict=True))
    return total


def last_sum(table: OptionTable) -> float:
    """Of the parameter gradients of the block whose backward comes last: nothing is left that would hide it."""
    problem, first = table.problem, table.stacks[0]
    if problem.mode == "infer" or problem.axial == 1:
        return 0.0
    size = sum(parameter_bytes(sub.spec, ITEMSIZE[problem.parameters]) for sub in first.sub_modules)
    return all_reduce(table.device, problem.world, size)
