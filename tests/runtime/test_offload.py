"""Block inputs on the host: equal results to the bit, promises kept on both sides, edited plans refused."""

from dataclasses import replace
from functools import cache

import msgspec
import pytest
import torch

from foldfit.cost.devices import find_device
from foldfit.errors import BadInput, BrokenPromise, DoesNotFit, MissingEnvironment
from foldfit.planner.build import chain_of, make_plan
from foldfit.planner.options import option_table
from foldfit.planner.solvers import SOLVERS
from foldfit.planner.table import Chain
from foldfit.plans import Choice, Plan
from foldfit.problem import Problem, Stack
from foldfit.runtime import link
from foldfit.runtime.check import check_plan
from foldfit.runtime.job import job_of
from foldfit.runtime.measure import measure
from foldfit.runtime.offload import Host, pool_of
from foldfit.runtime.trunk import Evoformer
from tests import small

CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory and streams need a CUDA device")
TRUNKS = {
    "evoformer": (small.stack("evoformer", 7, 12),),
    "pairformer": (small.stack("pairformer", 8),),
    "two stacks": (small.stack("extra_msa", 3, 24), small.stack("evoformer", 5, 12)),
}
CHOICE = {"a": (Choice("reference", 99, 99),) * 9}
"""Whole sub-modules, for schedules by hand."""


def plan_of(trunk: str, host: int = 2**30, part: float = 0.2, **more) -> Plan:
    """A plan in `part` of the way from the least memory to what the policy `small` takes; an endless link unless told."""
    device = replace(find_device("cpu"), host_link=more.pop("link", 1e15))
    problem = Problem(stacks=TRUNKS[trunk], n_res=17, mode="train", dropout=True, memory=2**40, **more)
    table = option_table(problem, device)
    low, high = least_memory(chain_of(table)), make_plan(table, "small").promised.peak_bytes
    limited = msgspec.structs.replace(problem, memory=int(low + part * (high - low)), host_memory=host)
    return make_plan(option_table(limited, device))


@cache
def least_memory(chain: Chain) -> int:
    with pytest.raises(DoesNotFit) as error:
        SOLVERS["chain"](chain, chain.base_backward)
    return error.value.need


def by_hand(*schedule: str, host: int = 2**30, trunk: str = "evoformer") -> Plan:
    stacks = (replace_blocks(TRUNKS[trunk][0], 3),)
    return small.unlimited(schedule, CHOICE, stacks=stacks, n_res=9, mode="train", host_memory=host)


def replace_blocks(stack: Stack, blocks: int) -> Stack:
    return msgspec.structs.replace(stack, blocks=blocks)


AWAY = [
    "check 0", "run 0 a", "check 1", "offload 1", "run 1 a", "check 2", "offload 2", "drop 1", "run 2 a", "drop 2", "end",
    "fetch 2", "load 2", "fetch 1", "record 2 a", "free 2", "backward 2", "load 1", "free 1", "record 1 a", "backward 1",
    "load 0", "free 0", "record 0 a", "backward 0",
]  # fmt: skip
HELD = [step for step in AWAY if step.split()[0] not in ("offload", "drop", "fetch")]


def results(plan: Plan, gaps: bool = False) -> list[torch.Tensor]:
    """The last state and every gradient of a step from fixed numbers; `gaps`: the inputs are parts of larger tensors."""
    job = job_of(plan)
    state = {name: x.clone() for name, x in job.inputs.items() if not name.endswith("mask")}
    if gaps:
        state = {name: torch.cat([x, x], -1)[..., : x.shape[-1]] for name, x in state.items()}
    state = {name: x.requires_grad_() for name, x in state.items()}
    masks = {name.removesuffix("_mask"): x for name, x in job.inputs.items() if name.endswith("mask")}
    torch.manual_seed(1)
    out = job.model.run(state, masks, plan)
    sum((x.float() * x.float().cos()).sum() for x in out.values()).backward()
    return [*out.values(), *(x.grad for x in state.values()), *(p.grad for p in job.model.parameters())]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_host_changes_no_bit(trunk: str, gaps: bool) -> None:
    """Against the same steps with every input on the device: what else a plan decides is the same."""
    plan = plan_of(trunk)
    assert any(step.startswith("drop") for step in plan.schedule)
    stay = tuple(step for step in plan.schedule if step.split()[0] not in ("offload", "drop", "fetch"))
    assert same(results(plan, gaps), results(msgspec.structs.replace(plan, schedule=stay).signed(), gaps))


@pytest.mark.parametrize(("part", "link"), [(0.05, 1e15), (0.05, 1e7), (0.3, 1e8), (0.8, 1e15)])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_promises_are_kept_on_the_device_and_on_the_host(trunk: str, part: float, link: float) -> None:
    plan = plan_of(trunk, part=part, link=link)
    job = job_of(plan)
    measured = measure(job.model, job.inputs, plan, repeat=1).check()
    assert 0.9 * plan.promised.peak_bytes <= measured.peak_bytes <= plan.promised.peak_bytes <= plan.problem.memory
    assert measured.host_bytes == plan.promised.host_bytes == measured.promised_host_bytes
    assert (measured.exposed > 0) == any(step.startswith("offload") for step in plan.schedule)


@pytest.mark.parametrize("options", [dict(precision="bf16", parameters="fp32", optimizer="adam"), dict(batch=2)], ids=str)
def test_promises_are_kept_with_samples_and_an_optimizer(options: dict) -> None:
    plan = plan_of("evoformer", **options)
    job = job_of(plan)
    measured = measure(job.model, job.inputs, plan, optimizer=job.optimizer).check()
    assert measured.host_bytes == plan.promised.host_bytes > 0


def test_host_memory_is_a_limit() -> None:
    free = plan_of("evoformer").promised.host_bytes
    plan = plan_of("evoformer", host=free // 2)
    job = job_of(plan)
    assert 0 < measure(job.model, job.inputs, plan, repeat=0).check().host_bytes <= free // 2


def test_a_broken_promise_on_the_host_is_told() -> None:
    plan = plan_of("evoformer")
    job = job_of(plan)
    measured = measure(job.model, job.inputs, plan, repeat=0)
    with pytest.raises(BrokenPromise, match="bytes on the host, promised 1"):
        msgspec.structs.replace(measured, promised_host_bytes=1).check()


def test_an_abandoned_run_gives_its_buffers_back() -> None:
    plan = by_hand(*AWAY)
    job = job_of(plan)
    state = {"m": job.inputs["m"], "z": job.inputs["z"]}
    pool_of.cache_clear()
    for _ in range(3):
        job.model.run(state, {}, plan)  # forward, and never a backward
    pool = pool_of(plan.digest, False)
    one = sum(x.nbytes for x in state.values())
    assert pool.held == 2 * one and [len(buffers) for buffers in pool.free.values()] == [2]


def test_two_runs_at_once_have_a_buffer_each() -> None:
    plan = by_hand(*AWAY)
    job = job_of(plan)
    first, second = ({"m": job.inputs["m"] * k, "z": job.inputs["z"]} for k in (1, 3))
    grads = []
    for together in (False, True):
        runs = []
        for state in (first, second):
            x = {name: t.clone().requires_grad_() for name, t in state.items()}
            torch.manual_seed(1)
            job.model.zero_grad()
            runs.append((x, job.model.run(x, {}, plan)))
            if not together:
                runs[-1][1]["m"].square().sum().backward()
        if together:
            for _, out in runs:
                out["m"].square().sum().backward()
        grads.append([t.grad for x, _ in runs for t in x.values()])
    assert same(*grads)


def edited(old: str, new: str, plan: tuple[str, ...] = tuple(AWAY)) -> list[str]:
    assert old in plan
    return [s for step in plan for s in ((new.split("; ") if new else []) if step == old else [step])]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("fetch 2", "", "'load 2' finds that input on host"),
        ("fetch 2", "fetch 2; fetch 2", "'fetch 2' finds that input on device and host"),
        ("fetch 2", "fetch 1; fetch 1", "'fetch 1' finds that input on device and host"),
        ("offload 1", "", "'drop 1' finds that input on device"),
        ("offload 1", "offload 1; offload 1", "'offload 1' finds that input on device and host"),
        ("offload 1", "offload 0", "'offload 0' finds that input on device"),
        ("drop 1", "drop 1; drop 1", "'drop 1' finds that input on host"),
        ("drop 1", "fetch 1", "'fetch 1' finds that input on device and host"),
        ("check 2", "", "'offload 2' finds that input on neither"),
        ("free 2", "free 2; fetch 2", "'fetch 2' finds that input on neither"),
        ("drop 1", "drop", "has the step 'drop'"),
        ("drop 1", "drop 7", "does not have"),
        ("fetch 1", "fetch x", "does not have"),
    ],
)
def test_edited_steps_are_refused(old: str, new: str, words: str) -> None:
    plan = by_hand(*edited(old, new))
    with pytest.raises(BadInput, match=words):
        check_plan(small.trunk(*plan.problem.stacks), plan)


def test_steps_to_a_host_that_the_problem_has_not_are_refused() -> None:
    plan = by_hand(*AWAY, host=0)
    with pytest.raises(BadInput, match="with 0 bytes of host memory"):
        check_plan(small.trunk(*plan.problem.stacks), plan)


def test_a_host_without_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*args: object, flags: int) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(link.mmap, "mmap", none_left)
    with pytest.raises(MissingEnvironment, match="give less --host-memory"):
        Host("digest").offload(1, {"z": torch.zeros(3)})


def on_the_card(host: str, limit: int) -> Plan:
    import foldfit

    stacks = [Stack("evoformer", 12, 128)]
    return foldfit.plan(
        stacks, n_res=160, mode="train", precision="bf16", dropout=True, device="cuda", memory=limit, host_memory=host, costs="modelled"
    )


@CARD
def test_on_a_card_the_host_changes_no_bit_and_both_promises_are_kept() -> None:
    least = on_the_card("0", 2**40).resident
    plan = on_the_card("4GiB", 3 * sum(least.values()))
    assert any(step.startswith("drop") for step in plan.schedule)
    stay = tuple(step for step in plan.schedule if step.split()[0] not in ("offload", "drop", "fetch"))
    away, held = results(plan), results(msgspec.structs.replace(plan, schedule=stay).signed())
    assert same(away, held)
    assert same(results(plan), held)  # in the buffers of the run before
    job = job_of(plan)
    measured = measure(job.model, job.inputs, plan, repeat=2).check()
    assert 0 < measured.host_bytes <= plan.promised.host_bytes


@CARD
def test_on_a_card_an_abandoned_forward_disturbs_no_run_after_it() -> None:
    plan = on_the_card("4GiB", 3 * sum(on_the_card("0", 2**40).resident.values()))
    before = results(plan)
    model = Evoformer(n_blocks=12).cuda().bfloat16()
    for _ in range(3):
        model(torch.randn(128, 160, 256).cuda().bfloat16(), torch.randn(160, 160, 128).cuda().bfloat16(), plan=plan)
    assert same(results(plan), before)
