"""How many runs a measurement makes, by a clock of the test's own."""

from itertools import count

import pytest

import foldfit
from foldfit.runtime import measure
from foldfit.runtime.job import job_of
from tests import small

PLAN = foldfit.plan([small.stack("pairformer", 1)], n_res=4, memory="64MiB")


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


def test_without_repeats_the_metered_run_is_the_measure(ten_seconds_a_run):
    job = job_of(PLAN)
    assert measure.measure(job.model, job.inputs, PLAN, repeat=0, warmup=3).repeat == 0 and len(ten_seconds_a_run) == 1
