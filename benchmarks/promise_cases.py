"""The plans of benchmarks/promise.py: what is promised, in four tables.

peaks: every mode, precision, launch and stack, policies and limits, host memory: bytes. few blocks, since every block has the same peaks.
seconds: more blocks under measured costs: time. choice: one problem by many plans: is the one that `auto` takes the best? cards: the
longest protein for each of several smaller cards, and 1.05 times that.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import inf

import msgspec

from foldfit.bench.planned import only
from foldfit.cost.devices import Device
from foldfit.errors import BadInput, DoesNotFit
from foldfit.planner.build import make_plan
from foldfit.planner.lengths import longest_n_res
from foldfit.planner.options import Option, OptionTable, SubModuleOptions, option_table
from foldfit.planner.policies import POLICIES, BlockChoice
from foldfit.plans import Plan
from foldfit.problem import Problem, Stack

CARDS = (8, 16, 24, 40, 80)
"""GB, of 1e9 bytes, of which PyTorch's allocator may reserve all."""
ALLOCATED = 0.99
"""What of that a plan may allocate: the allocator reserves in steps of 20 MiB, and cannot give back what is in use in part."""
CHOICE_BLOCKS, CHOICE_MEMORY = 12, 117 * 10**8
"""A quarter of the stack, so that dozens of plans run in minutes, in the memory that a peer takes for all of it."""


@dataclass(frozen=True)
class Promise:
    """A row to be: a plan, or why there is none. `fraction`: of the card's memory, in bytes, that its run may reserve."""

    table: str
    key: str
    problem: Problem
    policy: str
    plan: Plan | None
    need: int = 0
    fraction: int = 0


def problem(
    device: Device, stack: str, n_seq: int, n_res: int, blocks: int, *, mode: str = "train", precision: str = "bf16", **more: object
) -> Problem:
    stored = {"tf32": "fp32"}.get(precision, precision)
    fields = {"memory": int(0.9 * (device.memory - device.reserved)), "dropout": mode == "train"} | more
    return Problem(
        stacks=(Stack(stack, blocks, n_seq),), n_res=n_res, mode=mode, precision=precision, parameters=stored, device=device.name,  # type: ignore[arg-type]
        device_type="cuda", **fields,  # type: ignore[arg-type]
    )  # fmt: skip


def name_of(p: Problem, policy: str, note: str = "") -> str:
    stacks = "+".join(f"{s.blocks}x{s.name}{s.rows or ''}" for s in p.stacks)
    host = " host" if p.host_memory else ""
    batch = f" batch{p.batch}" if p.batch > 1 else ""
    kept = " overwritten" if p.inputs == "overwritten" else ""
    return f"{stacks} {p.n_res} {p.mode} {p.precision} {p.launch}{host}{batch}{kept} {policy}{note}"


def least(p: Problem, device: Device) -> int:
    """Bytes that any plan of it needs."""
    try:
        make_plan(option_table(msgspec.structs.replace(p, memory=1, host_memory=0), device))
    except DoesNotFit as error:
        return error.need
    raise AssertionError("nothing fits into one byte")


def promise(table: str, p: Problem, device: Device, policy: str = "auto", note: str = "", options: OptionTable | None = None) -> Promise:
    key = f"{table} {name_of(p, policy, note)}"
    try:
        return Promise(table, key, p, policy, make_plan(options or option_table(p, device), policy))
    except DoesNotFit as error:
        return Promise(table, key, p, policy, None, error.need)


def limited(table: str, p: Problem, device: Device, *times: float) -> Iterator[Promise]:
    """`auto` under so many times the least memory that it needs."""
    floor = least(p, device)
    for x in times:
        yield promise(table, msgspec.structs.replace(p, memory=min(p.memory, int(x * floor))), device, note=f" x{x:g}")


def peaks(device: Device) -> Iterator[Promise]:
    for precision in ("bf16", "fp16", "tf32", "fp32"):
        p = problem(device, "evoformer", 128, 256, 3, precision=precision)
        for policy in ("none", "small", "large"):
            yield promise("peaks", p, device, policy)
        yield from limited("peaks", p, device, 1.02, 1.5)
    for n_seq, n_res in ((128, 256), (512, 256), (512, 384)):
        yield from limited("peaks", problem(device, "evoformer", n_seq, n_res, 4, launch="graph"), device, 1.05, 1.6, 4)
    for n_seq, n_res, precision in ((512, 384, "bf16"), (512, 256, "tf32")):
        p = problem(device, "evoformer", n_seq, n_res, 12, precision=precision, host_memory=32 * 2**30)
        yield from limited("peaks", p, device, 1.01, 1.1, 1.3)
    for n_seq, n_res, precision in ((128, 1024, "bf16"), (128, 1024, "tf32"), (128, 640, "fp32"), (512, 777, "bf16")):
        p = problem(device, "evoformer", n_seq, n_res, 2, mode="infer", precision=precision)
        yield from limited("peaks", p, device, 1.0, 2)
    yield from limited("peaks", problem(device, "evoformer", 128, 1024, 2, mode="infer", inputs="overwritten"), device, 1.0)
    yield from limited("peaks", problem(device, "evoformer", 128, 512, 4, mode="infer", launch="graph"), device, 1.2)
    yield from limited("peaks", problem(device, "extra_msa", 1024, 256, 2), device, 1.05, 2)
    yield from limited("peaks", problem(device, "extra_msa", 1024, 256, 2, launch="graph", precision="fp16"), device, 1.5)
    yield from limited("peaks", problem(device, "pairformer", 0, 384, 3), device, 1.05, 2)
    yield from limited("peaks", problem(device, "pairformer", 0, 384, 3, mode="infer", precision="tf32"), device, 1.2)
    yield from limited("peaks", problem(device, "evoformer", 64, 192, 3, batch=2, optimizer="adam"), device, 1.3)
    two = msgspec.structs.replace(
        problem(device, "evoformer", 128, 256, 2, precision="tf32"), stacks=(Stack("extra_msa", 2, 512), Stack("evoformer", 2, 128))
    )
    yield from limited("peaks", two, device, 1.2)


def seconds(device: Device) -> Iterator[Promise]:
    for n_seq, n_res in ((128, 256), (512, 256), (512, 384)):
        for launch in ("graph", "eager"):
            p = problem(device, "evoformer", n_seq, n_res, 12, launch=launch)
            yield from limited("seconds", p, device, 1.1, 3)
    for precision in ("fp16", "tf32", "fp32"):
        p = problem(device, "evoformer", 128 if precision == "fp32" else 512, 256, 8, launch="graph", precision=precision)
        yield from limited("seconds", p, device, 1.5)
    for n_seq, n_res, launch in (
        (128, 256, "graph"),
        (128, 256, "eager"),
        (128, 1024, "graph"),
        (128, 2048, "graph"),
        (128, 1500, "eager"),
    ):
        p = problem(device, "evoformer", n_seq, n_res, 8 if n_res < 1000 else 4, mode="infer", launch=launch)
        yield from limited("seconds", p, device, 1.5)
    for n_seq, n_res in ((1024, 256), (5120, 384)):
        yield from limited("seconds", problem(device, "extra_msa", n_seq, n_res, 4, launch="graph"), device, 1.5)
    yield from limited("seconds", problem(device, "pairformer", 0, 384, 12, launch="graph"), device, 1.5)
    yield from limited("seconds", problem(device, "pairformer", 0, 768, 8, mode="infer", launch="graph"), device, 1.5)


def fastest(sub: SubModuleOptions, room: float) -> list[Option]:
    """Options that keep, of at most `room` bytes, the fastest first."""
    fitting = [o for o in sub.options if o.recordable and not o.choice.recompute and max(o.bytes.inter, o.bytes.back) <= room]
    return sorted(fitting, key=lambda o: (o.seconds + o.back_seconds, o.bytes.inter))


def variants(table: OptionTable) -> Iterator[tuple[str, list[BlockChoice]]]:
    """By hand: blocks of the fastest options, some of them kept; and all recomputed, with one sub-module by another option."""
    (stack,), blocks = table.stacks, table.problem.blocks
    ranked = [fastest(sub, table.problem.memory / 2) for sub in stack.sub_modules]
    best = tuple(options[0] for options in ranked)
    for keep in range(blocks + 1):
        yield f"keep {keep}", [BlockChoice(best, recompute=i < blocks - keep) for i in range(blocks)]
    for i, options in enumerate(ranked):
        others = [
            next((o for o in options if o.choice.kernel == k), None) for k in {o.choice.kernel for o in options} - {best[i].choice.kernel}
        ]
        halves = [o for o in options if o.choice.kernel == best[i].choice.kernel and o.choice.rows * 2 <= best[i].choice.rows][:1]
        for o in [*others, *halves]:
            if o:
                one = (*best[:i], o, *best[i + 1 :])
                yield f"{stack.sub_modules[i].spec.name} {o.choice.kernel} {o.choice.rows}", [BlockChoice(one, recompute=True)]


def choice(device: Device) -> Iterator[Promise]:
    """The chosen one first, then the most promising."""
    p = problem(device, "evoformer", 512, 384, CHOICE_BLOCKS, launch="graph", memory=CHOICE_MEMORY)
    options = option_table(p, device)
    yield promise("choice", p, device, options=options)
    others = [
        promise("choice", msgspec.structs.replace(p, memory=int(share * p.memory)), device, note=f" {share:g} of it")
        for share in (0.95, 0.9, 0.8, 0.7, 0.6)
    ]
    others.append(promise("choice", p, replace(device, costs="modelled"), note=" by modelled costs"))
    for kernels in (("reference", "sdpa"), ("reference",)):
        others.append(promise("choice", p, device, note=" " + ",".join(kernels), options=only(options, kernels)))
    others += [promise("choice", p, device, policy, options=options) for policy in ("small", "large")]
    for name, blocks in variants(options):
        POLICIES[name] = policy_of(blocks)
        with contextlib.suppress(BadInput):
            others.append(promise("choice", p, device, name, options=options))
        del POLICIES[name]
    yield from sorted(others, key=lambda o: o.plan.promised.seconds if o.plan else inf)


def policy_of(blocks: list[BlockChoice]) -> Callable[[OptionTable], list[BlockChoice]]:
    return lambda table: blocks


def cards(device: Device) -> Iterator[Promise]:
    """The smaller ones first."""
    for card in CARDS:
        for mode, blocks in (("infer", 1), ("train", 2)):
            limit = card * 10**9
            p = problem(device, "evoformer", 128, 1, blocks, mode=mode, memory=int(ALLOCATED * limit))
            n = longest_n_res(p, device)
            for n_res, note in ((n, f" {card} GB, longest"), (round(1.05 * n), f" {card} GB, 1.05 x")):
                yield replace(promise("cards", msgspec.structs.replace(p, n_res=n_res), device, note=note), fraction=limit)


TABLES = {"peaks": peaks, "seconds": seconds, "choice": choice, "cards": cards}
