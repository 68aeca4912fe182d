"""Inference: where the state tensors are, on the host or on the device, and each sub-module's fastest option that fits beside them.

Nothing accumulates, so sub-modules are coupled by what sits where alone. H: tensors whose home is the host, where they are when the run
begins and when it ends; V, a part of H: those that visit the device while a sub-module runs. With d(V, V') the copies in between, none
of them hidden, and t(i, V) the fastest option of sub-module i that fits beside what is on the device,

    T(i, V) = t(i, V) + min over V' of T(i - 1, V') + d(V', V),    T(0, {}) = 0

(Viterbi 1967). Exact for every H, and every H is tried: the result is its own bound, of the whole space.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from foldfit.cost.resident import resident_bytes
from foldfit.errors import DoesNotFit
from foldfit.planner.options import CUDA_ALIGN, Option, OptionTable, StackOptions, hostable, subsets
from foldfit.planner.policies import BlockChoice
from foldfit.units import format_bytes

Names = frozenset[str]


@dataclass(frozen=True)
class Residency:
    """`hosted`: the state tensors whose home is the host, with their bytes; one choice a block; `seconds` of all, copies included."""

    hosted: dict[str, int]
    blocks: list[BlockChoice]
    seconds: float


def fastest(table: OptionTable) -> Residency:
    """Raises DoesNotFit, for the homes that need the least."""
    sizes = {name: size for stack in table.stacks for name, size in stack.state.items()}
    found, errors = [], []
    for home in subsets(hostable(table.problem)):
        hosted = {name: sizes[name] for name in home}
        if sum(hosted.values()) <= table.problem.host_memory:
            try:
                found.append(walk(table, hosted))
            except DoesNotFit as error:
                errors.append(error)
    if not found:
        raise min(errors, key=lambda error: error.need)
    return min(found, key=lambda r: (r.seconds, sum(r.hosted.values())))


def walk(table: OptionTable, hosted: dict[str, int]) -> Residency:
    """The recurrence, for one home. Raises DoesNotFit."""

    def moved(a: Names, b: Names) -> float:
        return sum(hosted[name] for name in a ^ b) / table.device.host_link if a != b else 0.0

    found, errors = [], []
    for stack in table.stacks:
        try:
            found.append(fitting(table, stack, hosted))
        except DoesNotFit as error:
            errors.append(error)
    if errors:
        raise max(errors, key=lambda error: error.need)
    reached: dict[Names, float] = {frozenset(): 0.0}
    steps: list[dict[Names, tuple[Option, Names]]] = []
    for i, stack in enumerate(table.stacks):
        left = {name for later in table.stacks[i:] for name in later.state}
        for _ in range(stack.blocks):
            for each in found[i]:
                step, now = {}, {}
                for visiting, option in each.items():
                    before = min(reached, key=lambda old: (reached[old] + moved(old & left, visiting), old != visiting))
                    step[visiting] = option, before
                    now[visiting] = reached[before] + moved(before & left, visiting) + option.seconds
                steps.append(step)
                reached = now
    end = min(reached, key=lambda last: reached[last] + moved(last, frozenset()))
    seconds, chosen = reached[end] + moved(end, frozenset()), []
    for step in reversed(steps):
        option, end = step[end]
        chosen.append(option)
    chosen.reverse()
    lengths = [len(stack.sub_modules) for stack in table.stacks for _ in range(stack.blocks)]
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    blocks = [BlockChoice(tuple(chosen[start : start + length])) for start, length in zip(starts, lengths, strict=True)]
    return Residency(hosted, blocks, seconds)


def fitting(table: OptionTable, stack: StackOptions, hosted: Mapping[str, int]) -> list[dict[Names, Option]]:
    """Of every sub-module of a block: what may visit the device -> the fastest option that fits then. Raises DoesNotFit."""
    problem = table.problem
    resident = sum(resident_bytes(problem, CUDA_ALIGN if problem.device_type == "cuda" else 1, hosted)[0].values())
    copied = 0 if problem.inputs == "overwritten" else sum(stack.state.values())
    here = tuple(name for name in hosted if name in stack.state)
    out, least = [], []
    for sub in stack.sub_modules:
        fits, needs = {}, []
        for visitors in subsets(here):
            host = " ".join(name for name in here if name not in visitors)
            beside = resident + copied + sum(hosted[name] for name in visitors)
            options = [o for o in sub.options if o.choice.host == host and not o.choice.recompute]
            needs.append(beside + min(o.bytes.forward for o in options))
            some = [o for o in options if beside + o.bytes.forward <= problem.memory]
            if some:
                fits[frozenset(visitors)] = min(some, key=lambda o: (o.seconds, o.bytes.forward))
        out.append(fits)
        least.append((min(needs), sub.spec.name))
    need, where = max(least)
    if need > problem.memory:
        raise DoesNotFit(
            f"{stack.spec.name} needs {format_bytes(need)} (at {where}, in its thinnest slices), the limit is "
            f"{format_bytes(problem.memory)}",
            need=need,
            have=problem.memory,
            where=where,
        )
    return out
