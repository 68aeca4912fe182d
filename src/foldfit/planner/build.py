"""From an option table to a plan: the chain of abstract numbers, a policy's or a solver's schedule, its promise and bound."""

from collections.abc import Collection
from dataclasses import replace
from typing import cast

import msgspec

from foldfit._version import __version__
from foldfit.cost.collectives import are_measured
from foldfit.cost.resident import resident_bytes
from foldfit.errors import BadInput, DoesNotFit
from foldfit.planner.accuracy import expected_error
from foldfit.planner.clocks import by_both, two_clocks
from foldfit.planner.options import CUDA_ALIGN, OptionTable, StackOptions
from foldfit.planner.policies import BlockChoice, ask
from foldfit.planner.residency import fastest
from foldfit.planner.simulate import simulate
from foldfit.planner.solvers import SOLVERS
from foldfit.planner.table import Chain, Forward, Record, Stage, Sub
from foldfit.planner.waits import last_sum, waits
from foldfit.plans import Bound, Choice, Plan, Promise
from foldfit.units import format_bytes

Named = dict[str, tuple[Choice, ...]]


def chain_of(table: OptionTable, hosted: Collection[str] = ()) -> Chain:
    """The abstract numbers that solvers work on; a choice is its own key. `hosted`: the state tensors whose home is the host."""
    problem = table.problem
    resident, backward = resident_bytes(problem, CUDA_ALIGN if problem.device_type == "cuda" else 1, hosted)
    base = sum(resident.values())
    runs, held = [], set()
    for i, stack in enumerate(table.stacks):
        own = sum(stack.state.values())
        entry = 0 if i == 0 else sum(size for name, size in stack.state.items() if name in held)
        held |= set(stack.state)
        runs.append((stage_of(stack, own, entry), stack.blocks))
    home = {name: size for stack in table.stacks for name, size in stack.state.items() if name in hosted}
    return Chain(
        tuple(runs),
        base,
        base + sum(backward.values()),
        backward.get("outputs", 0),
        owned=problem.inputs == "overwritten",
        host_memory=problem.host_memory,
        host_link=table.device.host_link if problem.host_memory else 0,
        home=tuple(home.items()),
    )


def stage_of(stack: StackOptions, state: int, entry: int) -> Stage:
    subs = []
    for sub in stack.sub_modules:
        forward = {
            o.choice: Forward(o.bytes.forward, o.seconds, o.choice, frozenset(o.choice.host.split()))
            for o in sub.options
            if not o.choice.recompute
        }
        record = tuple(
            Record(o.bytes.inter, o.bytes.saved, o.bytes.back, o.seconds, o.back_seconds, o.choice) for o in sub.options if o.recordable
        )
        subs.append(Sub(sub.spec.name, sub.written, tuple(forward.values()), record, sub.final))
    return Stage(stack.spec.name, state, tuple(subs), entry, frozenset(stack.state))


def make_plan(table: OptionTable, policy: str = "auto", solver: str = "chain") -> Plan:
    """The plan of a policy, with its promise and the bound. Raises DoesNotFit, and BadInput for an unknown policy or solver."""
    if solver not in SOLVERS:
        raise BadInput(f"unknown solver {solver!r}: expected one of {', '.join(SOLVERS)}")
    if table.loose:
        return better(table, table.loose, policy, solver)
    if two_clocks(table):
        return by_both(table, policy, solver)
    problem = table.problem
    best = fastest(table) if problem.mode == "infer" and policy == "auto" else None
    chain = chain_of(table, best.hosted if best else ())
    if policy != "auto":
        choices, schedule = policy_schedule(table, ask(policy, table))
    elif best:
        choices, schedule = policy_schedule(table, best.blocks)
    else:
        solution = SOLVERS[solver](chain, problem.memory)
        choices, schedule = cast(Named, solution.choices), list(solution.schedule)
    timeline = simulate(chain, choices, schedule)
    if timeline.peak > problem.memory:
        raise DoesNotFit(
            f"policy {policy} needs {format_bytes(timeline.peak)} (at {timeline.peak_at}), the limit is {format_bytes(problem.memory)}",
            need=timeline.peak,
            have=problem.memory,
            where=timeline.peak_at,
        )
    if problem.mode == "infer":
        bound_seconds = (best or fastest(table)).seconds
    else:
        bound_seconds = (solution if policy == "auto" else SOLVERS["chain"](chain, problem.memory)).bound_seconds
    resident, backward = resident_bytes(problem, CUDA_ALIGN if problem.device_type == "cuda" else 1, dict(chain.home))
    last = last_sum(table)
    seconds, bound_seconds = timeline.seconds + last, bound_seconds + last
    exposed = timeline.exposed + sum(waits(table, choices, schedule)) + last
    return Plan(
        version=__version__,
        problem=problem,
        policy=policy,
        solver=solver if policy == "auto" else "none",
        promised=Promise(timeline.peak, seconds, timeline.peak_at, timeline.host_bytes, exposed, expected_error(table, choices, schedule)),
        bound=Bound(bound_seconds, seconds / bound_seconds - 1),
        costs="measured" if all_measured(table, choices) and links_measured(table) else "modelled",
        resident=resident | backward,
        choices=choices,
        schedule=tuple(schedule),
        hosted=tuple(dict(chain.home)),
    ).signed()


def better(table: OptionTable, loose: OptionTable, policy: str, solver: str) -> Plan:
    """Of `auto` the faster of the two tables' plans, bounded by what neither goes below; other policies choose from the first."""
    found: list[Plan] = []
    errors: list[DoesNotFit] = []
    for one in (replace(table, loose=None), loose) if policy == "auto" else (replace(table, loose=None),):
        try:
            found.append(make_plan(one, policy, solver))
        except DoesNotFit as error:
            errors.append(error)
    if not found:
        raise min(errors, key=lambda error: error.need)
    best, bound = min(found, key=lambda plan: plan.promised.seconds), min(plan.bound.seconds for plan in found if plan.bound)
    return msgspec.structs.replace(best, bound=Bound(bound, best.promised.seconds / bound - 1)).signed()


def all_measured(table: OptionTable, choices: Named) -> bool:
    """Whether the seconds of everything chosen come from measurements."""
    known = {(sub.spec.name, o.choice.kernel): o.measured for stack in table.stacks for sub in stack.sub_modules for o in sub.options}
    names = {len(stack.sub_modules): [sub.spec.name for sub in stack.sub_modules] for stack in table.stacks}
    return all(known[name, c.kernel] for chosen in choices.values() for name, c in zip(names[len(chosen)], chosen, strict=True))


def links_measured(table: OptionTable) -> bool:
    """Whether those of the collectives that the ranks of a sample need do, if any."""
    return table.problem.axial == 1 or are_measured(table.device, table.problem.axial)


def policy_schedule(table: OptionTable, blocks: list[BlockChoice]) -> tuple[Named, list[str]]:
    """Forward through all blocks, back through all blocks; one that recomputes keeps its input alone in between."""
    names: dict[tuple[Choice, ...], str] = {}

    def name(choices: tuple[Choice, ...]) -> str:
        return names.setdefault(choices, letters(len(names)))

    forward, back = [], []
    for i, block in enumerate(blocks):
        choices = tuple(o.choice for o in block.options)
        if table.problem.mode == "infer":
            forward.append(f"run {i} {name(choices)}")
        elif block.recompute:
            forward += [f"check {i}", f"run {i} {name(plain(choices))}"]
            back.append([f"load {i}", f"free {i}", f"record {i} {name(choices)}", f"backward {i}"])
        else:
            forward.append(f"record {i} {name(choices)}")
            back.append([f"backward {i}"])
    return {v: k for k, v in names.items()}, [*forward, "end", *(step for steps in reversed(back) for step in steps)]


def plain(choices: tuple[Choice, ...]) -> tuple[Choice, ...]:
    """The same without recompute, for a run that is not recorded."""
    return tuple(msgspec.structs.replace(c, recompute=False) for c in choices)


def letters(i: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    return (letters(i // 26 - 1) if i >= 26 else "") + chr(ord("a") + i % 26)
