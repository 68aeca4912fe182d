"""Bench cases that take several ranks: run where there are enough devices, predicted where not."""

import json

import msgspec

from foldfit.bench.case import Case, Runs
from foldfit.bench.runner import bench, header
from foldfit.cli import main
from foldfit.cost.devices import cpu
from foldfit.plans import Plan
from foldfit.problem import Problem
from tests import small

PROBLEM = Problem(stacks=(small.stack("evoformer", 2, 5),), n_res=6, memory=2**30, world=2, axial=2)


def found(problem: Problem, ranks: int):
    runs = Runs(repeat=2, warmup=1, budget=600)
    results = bench([Case("a case", problem, "none")], header("bench", "full", cpu(), True), cpu(), True, None, runs, ranks=ranks)
    return results.results[0]


def test_enough_devices_run_it():
    r = found(PROBLEM, 2)
    assert r.status == "measured" and 0.9 * r.promised_peak <= r.peak <= r.promised_peak and r.repeat == 2
    assert 0 < r.exposed < r.seconds and r.promised_exposed > 0


def test_too_few_devices_predict_it():
    r = found(msgspec.structs.replace(PROBLEM, world=4), 2)
    assert (r.status, r.note) == ("predicted", "predicted: it takes 4 devices, 2 here")


def test_ranks_that_fail_are_a_row_that_says_so_and_others_go_on(monkeypatch):
    save, plans = Plan.save, iter("bad, good, good".split(", "))
    monkeypatch.setattr(Plan, "save", lambda self, path: save(self, path) if next(plans) == "good" else path.write_text("{"))
    cases = [Case(name, msgspec.structs.replace(PROBLEM, n_res=n_res), "none") for name, n_res in (("a case", 6), ("another", 9))]
    results = bench(cases, header("bench", "full", cpu(), True), cpu(), True, None, Runs(repeat=1), ranks=2).results
    assert [r.status for r in results] == ["failed", "measured"] and "foldfit run:" in results[0].note


def test_several_numbers_of_devices_are_crossed(capsys):
    flags = ["--blocks", "1", "--device", "H200", "--sizes", "64x64,64x96", "--gpus", "1,2,8", "--json"]
    assert main(["bench", *flags]) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    assert [r["problem"]["world"] for r in rows] == [1, 2, 8] * 2 and {r["status"] for r in rows} == {"predicted"}
    assert main(["bench", *flags, "--axial", "2"]) == 2
    assert "each number of them shares one sample" in capsys.readouterr().err
