"""How many runs a measurement makes, by a clock of the test's own."""

from itertools import count

import msgspec
import pytest

import foldfit
from foldfit.runtime import measure
from foldfit.runtime.job import job_of
from tests import small


def promising(seconds: float):
    plan = foldfit.plan([small.stack("pairformer", 1)], n_res=4, memory="64MiB")
    return msgspec.structs.replace(plan, promised=msgspec.structs.replace(plan.promised, seconds=seconds)).signed()


PLAN = promising(10)


@pytest.fixture
def ten_seconds_a_run(monkeypatch):
    """Each look at the clock is 10 s after the one before; a run is between two. Returns the runs made."""
    made = []
    once, ticks = measure.once, count(step=10)
    monkeypatch.setattr(measure, "once", lambda *a: made.append(once(*a)))
    monkeypatch.setattr(measure, "clock", lambda cuda: float(next(ticks)))
    return made


@pytest.mark.parametrize(("budget", "runs", "timed"), [(5, 1, 0), (19, 1, 0), (20, 2, 1), (35, 3, 1), (60, 6, 4), (1e9, 6, 4)])
def test_a_budget_ends_the_runs(ten_seconds_a_run, budget, runs, timed):
    """One metered run in any case; the last of the others are the timed ones."""
    job = job_of(PLAN)
    m = measure.measure(job.model, job.inputs, PLAN, repeat=4, warmup=1, budget=budget)
    assert (len(ten_seconds_a_run), m.repeat, m.seconds) == (runs, timed, 10.0)


def test_what_a_first_run_compiles_is_no_part_of_the_budget(ten_seconds_a_run):
    job, plan = job_of(PLAN), promising(0.01)
    assert measure.measure(job.model, job.inputs, plan, repeat=4, budget=9).repeat == 1 and len(ten_seconds_a_run) == 2


def test_without_repeats_the_metered_run_is_the_measure(ten_seconds_a_run):
    job = job_of(PLAN)
    assert measure.measure(job.model, job.inputs, PLAN, repeat=0, warmup=3).repeat == 0 and len(ten_seconds_a_run) == 1
