"""What a report says of copies to the host and of collectives, and of several numbers of ranks."""

import re

import pytest

from foldfit.bench.results import Result, Results
from foldfit.cli import main
from foldfit.cli.gather import planned_run, series_of
from foldfit.cost.devices import find_device
from foldfit.errors import DoesNotFit
from foldfit.planner.api import plan_problem
from foldfit.planner.options import option_table
from foldfit.planner.waits import last_sum
from foldfit.plans import Plan
from foldfit.problem import Problem
from foldfit.report.curves import scaling
from foldfit.report.pictures import schedule
from foldfit.report.run import BETWEEN_RANKS, FROM_HOST, TO_HOST, Run, Scaled, Series
from foldfit.report.trace import trace
from tests import small

NOTHING = {"steps": [], "peak_bytes": 0, "seconds": 1.0}


def planned(**more) -> tuple[Plan, Run]:
    """A training step in a tenth more than the least that it needs."""
    problem = {"stacks": (small.stack("evoformer", 8, 12),), "n_res": 16, "mode": "train", "dropout": True, **more}
    try:
        plan_problem(Problem(memory=1, **problem))
    except DoesNotFit as error:
        need = error.need
    plan = plan_problem(Problem(memory=int(1.1 * need), **problem))
    return plan, planned_run("a run", plan, NOTHING)


def test_copies_are_on_tracks_of_their_own():
    plan, run = planned(host_memory=2**30)
    moved = [step for step in plan.schedule if step.startswith("offload")]
    assert moved and {name: count for name, count, _ in run.by_track()} == {TO_HOST: len(moved), FROM_HOST: len(moved)}
    for track in (TO_HOST, FROM_HOST):
        copies = [t for t in run.transfers() if t.track == track]
        assert all(a.begin + a.seconds <= b.begin + 1e-12 for a, b in zip(copies, copies[1:], strict=False))  # one link each way
        assert copies[0].begin > 0 and copies[-1].begin + copies[-1].seconds <= plan.promised.seconds
    text = trace(run)
    assert text.count(f'"{TO_HOST}"') == text.count(f'"{FROM_HOST}"') == 1 + len(moved)


def test_collectives_add_up_to_what_is_exposed():
    plan, run = planned(world=3, axial=3)
    ((track, count, seconds),) = run.by_track()
    assert track == BETWEEN_RANKS and count == sum(s.split()[0] in ("run", "record", "backward") for s in plan.schedule)
    assert seconds + last_sum(option_table(plan.problem, find_device("cpu"))) == pytest.approx(plan.promised.exposed)
    assert all(0 <= t.begin < plan.promised.seconds for t in run.transfers())
    assert BETWEEN_RANKS in schedule(run)


def test_several_numbers_of_devices_are_a_picture(tmp_path):
    flags = ["--blocks", "1", "--device", "H200", "--sizes", "64x64", "--gpus", "1,2,8", "-o", str(tmp_path / "b")]
    assert main(["bench", *flags]) == 0
    assert main(["report", str(tmp_path / "b"), "--pictures", str(tmp_path / "p")]) == 0
    assert [p.name for p in (tmp_path / "p").iterdir()] == ["1-b-scaling.svg"]
    text = (tmp_path / "b" / "report.html").read_text()
    assert text.count("<svg") == text.count("aria-label=") == 1 and "1 x evoformer (64 rows), 64 residues, infer, fp32" in text


def test_what_was_measured_on_several_ranks_stands_beside_what_was_planned():
    """A result file of 1, 2 and 3 ranks, the last one planned alone."""
    rows = []
    for ranks, took in ((1, 4.0), (2, 2.5), (3, 0.0)):
        problem = Problem(stacks=(small.stack("evoformer", 2, 6),), n_res=8, memory=2**30, world=ranks, axial=ranks)
        exposed = {"promised_exposed": 0.1 * (ranks - 1), "exposed": 0.2 * (ranks - 1) if took else 0.0}
        status = "measured" if took else "predicted"
        rows.append(Result(
            key=f"on {ranks}", status=status, problem=problem, policy="large", promised_seconds=3 / ranks, seconds=took, **exposed,
        ))  # fmt: skip
    results = Results(experiment="bench", device="cpu", machine="x", versions={}, date="", results=tuple(rows))
    (series,) = series_of(results)
    assert (series.problem, series.policy) == ("2 x evoformer (6 rows), 8 residues, infer, fp32", "large")
    assert [(p.ranks, p.took, p.exposed) for p in series.points] == [(1, 4.0, 0.0), (2, 2.5, 0.2), (3, 0.0, 0.0)]
    assert drawn_points(series).count(3) == 2 and drawn_points(series).count(2) >= 2, "three planned and two measured, in both halves"


def test_waiting_that_was_not_timed_is_not_drawn_as_none():
    def series(exposed: float) -> Series:
        return Series("p", "auto", [Scaled(1, 4.0, 0.0, 4.1), Scaled(2, 2.0, 0.2, 2.1, exposed), Scaled(3, 1.5, 0.3)])

    timed, not_timed = (drawn_points(series(exposed)) for exposed in (0.3, 0.0))
    assert timed.count(2) == not_timed.count(2) + 1 and not_timed.count(1) == timed.count(1) + 1


def drawn_points(series: Series) -> list[int]:
    """Of every line of the picture, how many points it has."""
    return [len(re.findall("<use ", part)) for part in re.split('<g id="line2d_', scaling([series]))]
