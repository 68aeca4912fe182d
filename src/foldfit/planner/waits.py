"""Seconds in which a plan for several ranks waits for collectives."""

from collections.abc import Mapping, Sequence

from foldfit.cost.collectives import all_reduce
from foldfit.cost.memory import parameter_bytes
from foldfit.planner.options import OptionTable
from foldfit.plans import Choice
from foldfit.problem import ITEMSIZE


def waits(table: OptionTable, choices: Mapping[str, Sequence[Choice]], schedule: Sequence[str]) -> list[float]:
    """Of relays and gathers: of each sub-module that runs, recorded, plainly or back, in the schedule's order."""
    stack_of = [stack for stack in table.stacks for _ in range(stack.blocks)]
    found = {id(sub): {o.choice: (o.exposed, o.back_exposed) for o in sub.options} for stack in table.stacks for sub in stack.sub_modules}
    out: list[float] = []
    recorded: dict[str, str] = {}
    for step in schedule:
        verb, block, name = (*step.split(), "", "")[:3]
        if verb == "record":
            recorded[block] = name
        if verb in ("run", "record", "backward"):
            subs = stack_of[int(block)].sub_modules
            chosen = choices[name or recorded[block]]
            each = [found[id(sub)][choice] for sub, choice in zip(subs, chosen, strict=True)]
            out += [back for _, back in reversed(each)] if verb == "backward" else [forward for forward, _ in each]
    return out


def last_sum(table: OptionTable) -> float:
    """Of the parameter gradients of the block whose backward comes last: nothing is left that would hide it."""
    problem, first = table.problem, table.stacks[0]
    if problem.mode == "infer" or problem.axial == 1:
        return 0.0
    size = sum(parameter_bytes(sub.spec, ITEMSIZE[problem.parameters]) for sub in first.sub_modules)
    return all_reduce(table.device, problem.world, size)
