"""One more run: the seconds of its steps, and the allocator's history where there is one."""

import msgspec
import pytest

from foldfit.errors import MissingEnvironment, NotSupported
from foldfit.planner.api import plan_problem
from foldfit.problem import Problem
from foldfit.runtime import record
from foldfit.runtime.job import job_of
from foldfit.runtime.measure import measure
from tests.small import stack


@pytest.fixture(scope="module")
def plan():
    return plan_problem(Problem(stacks=(stack("evoformer", 2, 4),), n_res=6, mode="train", memory=2**26))


def test_steps_are_timed(plan):
    job = job_of(plan)
    measured = measure(job.model, job.inputs, plan, repeat=0)
    timed = record.time_steps(job, plan, measured)
    assert all(s.seconds > 0 for s in timed.steps) and not any(s.seconds for s in measured.steps)
    assert [(s.step, s.sub_module, s.peak_bytes) for s in timed.steps] == [(s.step, s.sub_module, s.peak_bytes) for s in measured.steps]
    assert not any(p.grad is not None for p in job.model.parameters())


def test_a_run_without_steps_stays_as_it_is(plan):
    job = job_of(plan)
    whole = msgspec.structs.replace(measure(job.model, job.inputs, plan, repeat=0), steps=())
    assert record.time_steps(job, plan, whole) == whole


def test_no_snapshot_without_cuda(plan, monkeypatch, tmp_path):
    with pytest.raises(NotSupported, match="--trace"):
        record.can_snapshot(plan)
    card = msgspec.structs.replace(plan, problem=msgspec.structs.replace(plan.problem, device="H200", device_type="cuda"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(MissingEnvironment, match="H200"):
        record.can_snapshot(card)


def test_a_snapshot_is_of_one_run_and_whole_or_not_there(plan, monkeypatch, tmp_path):
    """With a stand-in for CUDA's allocator: what is called, in which order, and that nothing is left half-written."""
    calls = []
    monkeypatch.setattr(record, "can_snapshot", lambda plan: None)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    monkeypatch.setattr("torch.cuda.memory._record_memory_history", lambda enabled="all", **_: calls.append(f"record {enabled}"))
    monkeypatch.setattr(record, "once", lambda *_: calls.append("run"))
    monkeypatch.setattr("torch.cuda.memory._dump_snapshot", lambda path: (calls.append("dump"), open(path, "w").close()))
    record.snapshot(job_of(plan), plan, tmp_path / "new" / "s.pickle")
    assert calls == ["record all", "run", "dump", "record None"] and [p.name for p in (tmp_path / "new").iterdir()] == ["s.pickle"]

    def full(path):
        open(path, "w").close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.cuda.memory._dump_snapshot", full)
    with pytest.raises(MissingEnvironment, match="No space left"):
        record.snapshot(job_of(plan), plan, tmp_path / "b.pickle")
    assert calls[-1] == "record None" and not list(tmp_path.glob("b*"))
