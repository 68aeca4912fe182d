"""From an option table to a plan: the chain of abstract numbers, a policy's or a solver's schedule, its promise and bound."""

from typing import cast

import msgspec

from foldfit._version import __version__
from foldfit.cost.resident import resident_bytes
from foldfit.errors import BadInput, DoesNotFit
from foldfit.planner.options import CUDA_ALIGN, OptionTable, StackOptions
from foldfit.planner.policies import BlockChoice, ask
from foldfit.planner.simulate import simulate
from foldfit.planner.solvers import SOLVERS
from foldfit.planner.table import Chain, Forward, Record, Stage, Sub
from foldfit.planner.waits import last_sum, waits
from foldfit.plans import Bound, Choice, Plan, Promise
from foldfit.units import format_bytes

Named = dict[str, tuple[Choice, ...]]


def chain_of(table: OptionTable) -> Chain:
    """The abstract numbers that solvers work on; a choice is its own key."""
    problem = table.problem
    resident, backward = resident_bytes(problem, CUDA_ALIGN if problem.device_type == "cuda" else 1)
    base = sum(resident.values())
    runs, held = [], set()
    for i, stack in enumerate(table.stacks):
        own = sum(stack.state.values())
        entry = 0 if i == 0 else sum(size for name, size in stack.state.items() if name in held)
        held |= set(stack.state)
        runs.append((stage_of(stack, own, entry), stack.blocks))
    owned, host = problem.inputs == "overwritten", problem.host_memory
    return Chain(
        tuple(runs), base, base + sum(backward.values()), backward.get("outputs", 0), owned, host, table.device.host_link if host else 0
    )


def stage_of(stack: StackOptions, state: int, entry: int) -> Stage:
    subs = []
    for sub in stack.sub_modules:
        forward = {o.choice: Forward(o.bytes.forward, o.seconds, o.choice) for o in sub.options if not o.choice.recompute}
        record = tuple(
            Record(o.bytes.inter, o.bytes.saved, o.bytes.back, o.seconds, o.back_seconds, o.choice) for o in sub.options if o.recordable
        )
        subs.append(Sub(sub.spec.name, sub.written, tuple(forward.values()), record, sub.final))
    return Stage(stack.spec.name, state, tuple(subs), entry)


def make_plan(table: OptionTable, policy: str = "auto", solver: str = "chain") -> Plan:
    """The plan of a policy, with its promise and the bound. Raises DoesNotFit, and BadInput for an unknown policy or solver."""
    if solver not in SOLVERS:
        raise BadInput(f"unknown solver {solver!r}: expected one of {', '.join(SOLVERS)}")
    chain, problem = chain_of(table), table.problem
    if policy != "auto":
        choices, schedule = policy_schedule(table, ask(policy, table))
    elif problem.mode == "infer":
        choices, schedule = policy_schedule(table, fastest_fitting(table, chain))
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
        bound_seconds = sum(o.seconds for block in fastest_fitting(table, chain) for o in block.options)
    else:
        bound_seconds = (solution if policy == "auto" else SOLVERS["chain"](chain, problem.memory)).bound_seconds
    resident, backward = resident_bytes(problem, CUDA_ALIGN if problem.device_type == "cuda" else 1)
    last = last_sum(table)
    seconds, bound_seconds = timeline.seconds + last, bound_seconds + last
    exposed = timeline.exposed + sum(waits(table, choices, schedule)) + last
    return Plan(
        version=__version__,
        problem=problem,
        policy=policy,
        solver=solver if policy == "auto" else "none",
        promised=Promise(timeline.peak, seconds, timeline.peak_at, timeline.host_bytes, exposed),
        bound=Bound(bound_seconds, seconds / bound_seconds - 1),
        costs="measured" if all_measured(table, choices) else "modelled",
        resident=resident | backward,
        choices=choices,
        schedule=tuple(schedule),
    ).signed()


def all_measured(table: OptionTable, choices: Named) -> bool:
    """Whether the seconds of everything chosen come from measurements."""
    known = {(sub.spec.name, o.choice.kernel): o.measured for stack in table.stacks for sub in stack.sub_modules for o in sub.options}
    names = {len(stack.sub_modules): [sub.spec.name for sub in stack.sub_modules] for stack in table.stacks}
    return all(known[name, c.kernel] for chosen in choices.values() for name, c in zip(names[len(chosen)], chosen, strict=True))


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


def fastest_fitting(table: OptionTable, chain: Chain) -> list[BlockChoice]:
    """For inference, where nothing accumulates: of each sub-module the fastest option whose intermediate fits. It is its own
    bound. Raises DoesNotFit."""
    problem = table.problem
    blocks: list[BlockChoice] = []
    for stack in table.stacks:
        room = problem.memory - chain.base_forward - (0 if problem.inputs == "overwritten" else sum(stack.state.values()))
        least, where = max((min(o.bytes.forward for o in sub.options), sub.spec.name) for sub in stack.sub_modules)
        need = problem.memory - room + least
        if least > room:
            raise DoesNotFit(
                f"{stack.spec.name} needs {format_bytes(need)} (at {where}, in its thinnest slices), the limit is "
                f"{format_bytes(problem.memory)}",
                need=need,
                have=problem.memory,
                where=where,
            )
        fitting = ([o for o in sub.options if o.bytes.forward <= room] for sub in stack.sub_modules)
        options = tuple(min(some, key=lambda o: (o.seconds, o.bytes.forward)) for some in fitting)
        blocks += [BlockChoice(options)] * stack.blocks
    return blocks
