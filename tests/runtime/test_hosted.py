"""State tensors of an inference on the host: equal results to the bit, promises kept on both sides, the caller's tensors written."""

from dataclasses import replace

import msgspec
import pytest
import torch
from torch import Tensor

import foldfit
from foldfit.cost.devices import find_device
from foldfit.errors import BadInput, DoesNotFit, MissingEnvironment
from foldfit.planner.build import make_plan
from foldfit.planner.lengths import least
from foldfit.planner.options import option_table
from foldfit.plans import Choice, Plan
from foldfit.problem import Problem, Stack
from foldfit.runtime import link, windows
from foldfit.runtime.check import check_plan
from foldfit.runtime.job import Job, job_of
from foldfit.runtime.measure import measure
from tests import small

CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory and streams need a CUDA device")
TRUNKS = {
    "evoformer": (small.stack("evoformer", 2, 12),),
    "extra_msa": (small.stack("extra_msa", 2, 40),),
    "pairformer": (small.stack("pairformer", 2),),
    "two stacks": (small.stack("extra_msa", 1, 24), small.stack("evoformer", 2, 12)),
}
WIDE = 1e9
"""Bytes a second of a link that makes a plan's tensors come and go."""


def plan_of(trunk: str, part: float, **more) -> Plan:
    """In `part` of the way from the least memory to what the fastest plan takes."""
    fields = dict(n_res=23, inputs="overwritten", host_memory=2**40, memory=2**40) | more
    table = option_table(Problem(stacks=TRUNKS[trunk], **fields), replace(find_device("cpu"), host_link=WIDE))
    low, high = least(table), make_plan(table).promised.peak_bytes
    memory = int(low + part * (high - low))
    return make_plan(replace(table, problem=msgspec.structs.replace(table.problem, memory=memory)))


def held(plan: Plan) -> Plan:
    """The same choices, with everything on the device."""
    choices = {name: tuple(msgspec.structs.replace(c, host="") for c in chosen) for name, chosen in plan.choices.items()}
    return msgspec.structs.replace(plan, choices=choices, hosted=()).signed()


def run(job: Job, plan: Plan, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the caller has, and the result, of a run with masks."""
    torch.manual_seed(2)
    state = {name: x.to("cpu" if name in plan.hosted else device, copy=True) for name, x in job.inputs.items()}
    masks = {name: (torch.rand(x.shape[:-1]) > 0.2).to(device, x.dtype) for name, x in state.items()}
    with torch.no_grad():
        return state, job.model.run(state, masks, plan)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name].cpu(), b[name].cpu()) for name in a)


CASES = [(trunk, part, {}) for trunk in TRUNKS for part in (0, 0.1)]
CASES += [("evoformer", part, more) for part in (0, 0.05) for more in (dict(precision="bf16", parameters="bf16"), dict(batch=2))]
CASES += [("two stacks", 0.05, dict(precision="bf16", parameters="fp32"))]


@pytest.mark.parametrize(("trunk", "part", "more"), CASES, ids=str)
def test_the_host_changes_no_bit_and_promises_are_kept(trunk: str, part: float, more: dict) -> None:
    plan = plan_of(trunk, part, **more)
    job = job_of(plan)
    away, stay = run(job, plan), run(job, held(plan))
    assert equal(away[1], stay[1])
    assert all(away[1][name].data_ptr() == away[0][name].data_ptr() for name in plan.hosted if name in away[1])
    measured = measure(job.model, job.inputs, plan).check()
    assert 0.9 * plan.promised.peak_bytes <= measured.peak_bytes <= plan.problem.memory
    assert measured.host_bytes == plan.promised.host_bytes == sum(x.nbytes for name, x in job.inputs.items() if name in plan.hosted)
    if part == 0:
        assert plan.hosted and measured.exposed > 0


def test_tensors_come_and_go_within_a_block() -> None:
    plan = plan_of("two stacks", 0.05)
    assert set(plan.hosted) == {"e", "m", "z"}
    assert len({c.host for chosen in plan.choices.values() for c in chosen}) > 2


@pytest.mark.parametrize("rows", [(1, 1), (5, 23), (11, 7), (23, 23)])
def test_odd_slices(rows: tuple[int, int]) -> None:
    """Fewer slices than buffers, slices that do not divide, single rows."""
    choices = {"a": tuple(Choice("reference", *rows, host="m z") for _ in range(9))}
    plan = small.unlimited(
        ["run 0 a", "run 1 a", "end"], choices, stacks=TRUNKS["evoformer"], n_res=23, inputs="overwritten", host_memory=2**40
    )
    plan = msgspec.structs.replace(plan, hosted=("m", "z")).signed()
    job = job_of(plan)
    assert equal(run(job, plan)[1], run(job, held(plan))[1])


def test_one_pair_tensor_is_on_the_device() -> None:
    """Of a triangle product: the gathered projection, and slices."""
    plan = plan_of("pairformer", 0, n_res=64)
    job = job_of(plan)
    peaks = {s.sub_module: s.peak_bytes for s in measure(job.model, job.inputs, plan, repeat=0).steps}
    pair = job.inputs["z"].nbytes * 40 // 32  # the projection has 40 channels
    assert plan.hosted == ("z",) and pair < peaks["triangle_multiplication_incoming"] - sum(plan.resident.values()) < 1.2 * pair


def test_an_error_leaves_no_buffer() -> None:
    x = torch.zeros(8, 3, 4)
    steps = windows.windows({("z", 0): x}, 2, windows.Away(frozenset("z")), ("z", 0))
    start, stop, at = next(steps)
    at["z", 0] += 1
    with pytest.raises(ZeroDivisionError):
        steps.throw(ZeroDivisionError)
    assert (start, stop) == (0, 2) and not x.any()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (dict(hosted=()), "on the host, the plan ''"),
        (dict(hosted=("z", "m"), problem=dict(host_memory=0)), "expected an inference with host memory"),
    ],
)
def test_edited_plans_are_refused(edit: dict, words: str) -> None:
    plan = plan_of("evoformer", 0)
    edit = {k: msgspec.structs.replace(plan.problem, **v) if k == "problem" else v for k, v in edit.items()}
    with pytest.raises(BadInput, match=words):
        check_plan(small.trunk(*plan.problem.stacks), msgspec.structs.replace(plan, **edit))


def test_tensors_in_pieces_are_refused() -> None:
    plan = plan_of("pairformer", 0)
    job = job_of(plan)
    z = job.inputs["z"].transpose(0, 1)
    with torch.no_grad(), pytest.raises(BadInput, match="expected it contiguous"):
        job.model.run(job.inputs | {"z": z}, {}, plan)


def test_the_message_says_that_host_memory_would_do() -> None:
    with pytest.raises(DoesNotFit) as error:
        foldfit.plan(TRUNKS["pairformer"], n_res=64, memory=1, device="H200", inputs="overwritten")
    fields = dict(n_res=64, memory=error.value.need - 1, device="H200")
    with pytest.raises(DoesNotFit, match="it fits with --inputs overwritten --host-memory") as error:
        foldfit.plan(TRUNKS["pairformer"], **fields)
    size = str(error.value).split("--host-memory ")[1].split(";")[0]
    assert foldfit.plan(TRUNKS["pairformer"], inputs="overwritten", host_memory=size, **fields).hosted == ("z",)
    with pytest.raises(DoesNotFit) as error:  # a processor's memory is the host's
        foldfit.plan(TRUNKS["pairformer"], n_res=64, memory="1MiB", device="cpu")
    assert "--host-memory" not in str(error.value)


def test_the_message_says_that_overwritten_inputs_would_do() -> None:
    fields = dict(n_res=64, device="cpu")
    with pytest.raises(DoesNotFit) as error:
        foldfit.plan(TRUNKS["pairformer"], memory="1MiB", **fields)
    with pytest.raises(DoesNotFit, match="it fits with --inputs overwritten; give"):
        foldfit.plan(TRUNKS["pairformer"], memory=f"{error.value.need - 1}B", **fields)


def test_longer_proteins_with_host_memory() -> None:
    stacks, fields = (small.stack("pairformer"),), dict(memory="2MiB", inputs="overwritten")
    alone, more, most = (foldfit.max_length(stacks, host_memory=host, **fields) for host in (0, "800KiB", "1GiB"))
    assert alone < more < most
    assert foldfit.plan(stacks, n_res=more, host_memory="800KiB", **fields).promised.host_bytes <= 800 * 2**10


def test_what_cannot_be_pinned_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Runtime:
        cudaHostRegister = staticmethod(lambda address, size, flags: 2)

    monkeypatch.setattr(torch.cuda, "cudart", Runtime)
    with pytest.raises(MissingEnvironment, match=r"cannot pin 12 B of host memory \(CUDA error 2\)"):
        link.pin(torch.zeros(3))


@CARD
@pytest.mark.parametrize("axis", [0, 1])
def test_on_a_card_rows_and_columns_are_copied_as_they_lie(axis: int) -> None:
    host = torch.arange(40 * 24 * 8, dtype=torch.int16).view(40, 24, 8)
    link.pin(host)
    card, whole = torch.device("cuda", torch.cuda.current_device()), host.clone()
    part = host.narrow(axis, 5, 13)
    there = torch.zeros(part.shape, dtype=host.dtype, device=card)
    link.wait(card, link.begin(card, link.IN, [(there, part)], None), None)
    assert torch.equal(there.cpu(), part)
    there += 1
    link.wait(card, link.begin(card, link.OUT, [(part, there)], None), None)
    torch.cuda.synchronize()
    whole.narrow(axis, 5, 13).add_(1)
    assert torch.equal(host, whole)


@CARD
@pytest.mark.parametrize("limit", ["110MB", "150MB", "200MB"])
def test_on_a_card_the_host_changes_no_bit_and_both_promises_are_kept(limit: str) -> None:
    plan = foldfit.plan(
        [Stack("evoformer", 2, 64)], n_res=328, precision="bf16", inputs="overwritten", device="cuda", memory=limit, host_memory="1GB",
        costs="modelled",
    )  # fmt: skip
    assert plan.hosted
    job = job_of(plan)
    assert equal(run(job, plan, "cuda")[1], run(job, held(plan), "cuda")[1])
    measured = measure(job.model, job.inputs, plan, repeat=2).check()
    assert measured.host_bytes == plan.promised.host_bytes
