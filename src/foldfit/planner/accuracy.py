"""What a plan's seconds stand on: measurements or the model, and how far off they may be."""

from collections import Counter

from foldfit.cost.database import find_costs
from foldfit.cost.sample import used_axes
from foldfit.planner.options import Option, OptionTable, StackOptions, SubModuleOptions
from foldfit.plans import Choice

Named = dict[str, tuple[Choice, ...]]


def options_of(table: OptionTable, choices: Named, schedule: list[str]) -> list[tuple[StackOptions, SubModuleOptions, Choice, float]]:
    """Every sub-module that the schedule runs, by its choice, with the seconds that all its runs take."""
    stacks = [stack for stack in table.stacks for _ in range(stack.blocks)]
    recorded: dict[str, str] = {}
    runs: Counter[tuple[int, str, str]] = Counter()
    for step in schedule:
        verb, block, name = (*step.split(), "", "")[:3]
        if verb == "record":
            recorded[block] = name
        if verb in ("run", "record", "backward"):
            stack = next(i for i, s in enumerate(table.stacks) if s is stacks[int(block)])
            runs[stack, recorded[block] if verb == "backward" else name, verb] += 1
    known = [{(sub.spec.name, o.choice): o for sub in stack.sub_modules for o in sub.options} for stack in table.stacks]
    out = []
    for (i, name, verb), times in runs.items():
        for sub, choice in zip(table.stacks[i].sub_modules, choices[name], strict=True):
            option: Option = known[i][sub.spec.name, choice]
            out.append((table.stacks[i], sub, choice, times * (option.back_seconds if verb == "backward" else option.seconds)))
    return out


def expected_error(table: OptionTable, choices: Named, schedule: list[str]) -> float | None:
    """Of the plan's seconds, relative: those of its options by their seconds, as if all of them were off to one side, or the spread of
    whole runs, where that is more. None where costs
    are modelled, or nothing is known of some kernel's error."""
    costs, problem = find_costs(table.device), table.problem
    if costs is None:
        return None
    off = total = 0.0
    for stack, sub, choice, seconds in options_of(table, choices, schedule):
        axes = used_axes(sub.spec, stack.shapes.axes)
        found = costs.error(sub.spec, choice, axes, problem.precision, table.device)
        if found is None:
            return None
        off, total = off + found * seconds, total + seconds
    return max(off / total, costs.spreads[table.clock or 0]) if total else None
