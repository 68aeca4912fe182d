"""`foldfit bench` in general: many cases, resumable, compared with a baseline; wrong input is one clear line."""

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest
import torch

from foldfit.bench import baseline, runner
from foldfit.bench.case import Case
from foldfit.bench.results import Result, Results, read_results
from foldfit.bench.tables import markdown
from foldfit.cli import main
from foldfit.cost.devices import cpu, find_device
from foldfit.errors import BadInput
from foldfit.problem import Problem, Stack
from tests import small

FLAGS = ["--blocks", "1", "--mode", "train", "--repeat", "1", "--warmup", "0"]
CROSSED = [*FLAGS, "--sizes", "4x6,5x7", "--policies", "small,auto", "--solvers", "chain,study", "--limits", "1MiB,64MiB"]


def refused(capsys, *argv: str, code: int = 2) -> str:
    assert main(["bench", *argv]) == code
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and "Traceback" not in error
    return error


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    assert main(["bench", *CROSSED, "-o", str(folder)]) == 0
    return folder


def test_everything_is_crossed_and_measured(made):
    results = read_results(made).results
    assert len(results) == len({r.key for r in results}) == 2 * 2 * 3
    large = [r for r in results if r.problem.memory == 64 * 2**20]
    assert {r.status for r in large} == {"measured"} and {(r.policy, r.solver) for r in large} == {
        ("small", "chain"), ("auto", "chain"), ("auto", "study"),
    }  # fmt: skip
    for r in large:
        assert 0.9 * r.promised_peak <= r.peak <= r.promised_peak and r.seconds > 0 and r.repeat == 1
    for r in results:
        if r not in large:
            assert r.status == "does not fit" and r.promised_peak > r.problem.memory and r.note
    rows = list(csv.DictReader((made / "bench.csv").read_text().splitlines()))
    assert len(rows) == len(results) and rows[0]["trunk"] == "1 x evoformer (4 rows)"
    assert (made / "bench.md").read_text().count("\n") == len(results) + 2


def test_kept_rows_are_not_run_again(made, capsys, monkeypatch):
    monkeypatch.setattr("foldfit.bench.runner.planned", lambda *_: pytest.fail("ran again"))
    assert main(["bench", *CROSSED, "-o", str(made), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["results"]) == 12


def test_what_was_only_predicted_runs_when_it_can(capsys, tmp_path):
    flags = [*FLAGS, "--sizes", "4x6", "--memory", "64MiB", "-o", str(tmp_path)]
    assert main(["bench", *flags, "--budget", "1e-9"]) == 0
    (row,) = read_results(tmp_path).results
    assert row.status == "predicted" and "longer than the 1e-09 s given" in row.note
    assert main(["bench", *flags]) == 0
    assert [r.status for r in read_results(tmp_path).results] == ["measured"]


def test_an_interruption_loses_one_row(capsys, tmp_path, monkeypatch):
    run, left = runner.run, iter([True, False])
    monkeypatch.setattr(runner, "run", lambda *a: run(*a) if next(left) else interrupt())
    assert main(["bench", *FLAGS, "--sizes", "4x6,5x7", "--memory", "64MiB", "-o", str(tmp_path)]) == 1
    assert "interrupted" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bench.csv", "bench.json", "bench.md", "plans"]
    assert [r.status for r in read_results(tmp_path).results] == ["measured", "predicted"] and (tmp_path / "bench.md").read_text().count(
        "measured, median of 1"
    ) == 1


def interrupt():
    raise KeyboardInterrupt


def test_what_does_not_fit_a_gpu_runs_out_of_memory_there(monkeypatch):
    """The card's part is played by the test: a limit on it, and an allocation that fails."""
    shares = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=2**31))
    card = find_device("H200")
    problem = Problem(stacks=(small.stack("pairformer", 2),), n_res=64, memory=2**24, device=card.name, device_type="cuda")
    case, head = Case("a case", problem, "none"), runner.header("bench", "full", card, False)
    told = (torch.OutOfMemoryError("full"), "ran out of memory", "OOM, by the run too"), (BadInput("x"), "does not fit", "OOM")
    for error, status, words in told:
        monkeypatch.setattr(runner, "measured", raising(error))
        results = runner.bench([case], head, card, True)
        assert results.results[0].status == status and shares[-2:] == [2**24 / 2**31, 1.0]
        assert markdown(results).rstrip(" |\n").endswith(words)


def test_the_same_plan_runs_once(capsys, monkeypatch):
    runs, run = [], runner.run
    monkeypatch.setattr(runner, "run", lambda *a: (runs.append(a), run(*a))[1])
    flags = [*FLAGS, "--sizes", "4x6", "--limits", "64MiB,80MiB", "--policies", "small,large", "--json"]
    assert main(["bench", *flags]) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    assert len(rows) == 4 and len(runs) == 2 and {r["status"] for r in rows} == {"measured"}
    assert len({(r["policy"], r["seconds"]) for r in rows}) == 2 and len({r["problem"]["memory"] for r in rows}) == 2


def test_a_kernel_that_fails_is_a_row_that_says_so_and_is_run_again(capsys, tmp_path, monkeypatch):
    flags = [*FLAGS, "--sizes", "4x6", "--memory", "64MiB", "-o", str(tmp_path)]
    monkeypatch.setattr(runner, "measured", raising(RuntimeError("an illegal memory access\nand more")))
    assert main(["bench", *flags]) == 0
    (row,) = read_results(tmp_path).results
    assert (row.status, row.note) == ("failed", "RuntimeError: an illegal memory access")
    monkeypatch.undo()
    assert main(["bench", *flags]) == 0
    assert [r.status for r in read_results(tmp_path).results] == ["measured"]


def raising(error: Exception):
    def fails(*_):
        raise error

    return fails


def test_sets_of_kernels(capsys):
    flags = [*FLAGS, "--sizes", "4x6", "--memory", "64MiB", "--predict", "--json"]
    assert main(["bench", *flags, "--kernels", "reference", "--kernels", "all"]) == 0
    one, every = json.loads(capsys.readouterr().out)["results"]
    assert one["status"] == every["status"] == "predicted" and one["kernels"] == ["reference"]
    assert every["promised_seconds"] <= one["promised_seconds"] and one["key"] != every["key"]
    assert "has reference, sdpa here" in refused(capsys, *flags, "--kernels", "magic")


def test_a_plan_file_is_a_problem(capsys, tmp_path):
    path = str(tmp_path / "plan.json")
    assert main(["plan", "--n-seq", "4", "--n-res", "6", "--blocks", "1", "--memory", "64MiB", "-o", path]) == 0
    capsys.readouterr()
    assert main(["bench", path, "--policies", "none,chunk", "--predict", "--json"]) == 0
    assert [r["policy"] for r in json.loads(capsys.readouterr().out)["results"]] == ["none", "chunk"]
    assert "--n-res has no place" in refused(capsys, path, "--n-res", "9")


def test_a_promise_that_breaks_is_kept_as_such_and_said(capsys, tmp_path, monkeypatch):
    from foldfit.runtime import measure

    monkeypatch.setattr(measure.CpuMeter, "peak", lambda self: 2**40)
    assert main(["bench", *FLAGS, "--sizes", "4x6", "--memory", "64MiB", "-o", str(tmp_path)]) == 6
    assert "measured more than promised" in capsys.readouterr().err
    assert [r.status for r in read_results(tmp_path).results] == ["promise broken"]


def row(seconds: float, spread: float = 0.01, repeat: int = 5, **other) -> Result:
    plain = dict(key="a", status="measured", promised_peak=100, promised_seconds=1.0, peak=90)
    plain["problem"] = Problem(stacks=(Stack("pairformer", 1),), n_res=8, memory=2**30)
    return Result(**plain | dict(seconds=seconds, spread=spread, repeat=repeat) | other)


@pytest.mark.parametrize(("after", "what"), [
    (row(1.04), []), (row(1.2), ["time"]), (row(0.8), ["time"]), (row(1.2, spread=0.3), []), (row(2.0, repeat=1), []),
    (row(1.0, peak=91), ["peak"]), (row(1.0, promised_peak=120, promised_seconds=0.9), ["promised peak", "promised time"]),
    (row(0.0, status="does not fit", peak=0, promised_seconds=0), ["status"]),
])  # fmt: skip
def test_what_counts_as_a_change(after, what):
    assert [c.what for c in baseline.changes(row(1.0), after)] == what


def test_rows_that_came_and_went():
    head = Results(experiment="bench", device="cpu", machine="x", versions={}, date="")
    a, b = (msgspec.structs.replace(head, results=(row(1.0), row(1.0, key=key))) for key in "bc")
    found = baseline.compare(a, b)
    assert (found.rows, found.untold) == (1, 0) and [c.line for c in found.changes] == ["b: row there -> gone", "c: row none -> new"]


def test_a_baseline(made, capsys, tmp_path):
    assert main(["bench", str(made), "--baseline", str(made)]) == 0
    assert "12 rows in both files, 0 changes beyond noise; the seconds of 6 rows had fewer than 3" in capsys.readouterr().out
    results = read_results(made)
    first = results.results[0]
    slower = msgspec.structs.replace(results, results=(msgspec.structs.replace(first, promised_peak=1), *results.results[1:]))
    slower.save(tmp_path / "bench.json")
    assert main(["bench", str(made), "--baseline", str(tmp_path), "--json"]) == 0
    (change,) = json.loads(capsys.readouterr().out)["baseline"]["changes"]
    assert change["key"] == first.key and change["what"] == "promised peak"


@pytest.mark.parametrize(("edit", "code", "words"), [
    (lambda r: msgspec.structs.replace(r, machine="an abacus, 1 cores"), 2, "an abacus, 1 cores"),
    (lambda r: msgspec.structs.replace(r, experiment="study"), 2, "study"),
    (lambda r: msgspec.structs.replace(r, results=()), 2, "no row in common"),
    (lambda r: msgspec.structs.replace(r, schema=1), 4, "result schema 1"),
])  # fmt: skip
def test_a_baseline_of_something_else(made, capsys, tmp_path, edit, code, words):
    edit(read_results(made)).save(tmp_path / "bench.json")
    assert words in refused(capsys, str(made), "--baseline", str(tmp_path), code=code)


def test_results_of_another_origin_are_kept(made, capsys, tmp_path):
    path = tmp_path / "bench.json"
    msgspec.structs.replace(read_results(made), versions={"foldfit": "0.0.1"}).save(path)
    text = path.read_text()
    assert "by foldfit 0.0.1" in refused(capsys, *CROSSED, "-o", str(tmp_path)) and path.read_text() == text
    path.write_text(text[:300])
    assert "no result of foldfit bench" in refused(capsys, *CROSSED, "-o", str(tmp_path)) and path.read_text() == text[:300]
    assert main(["bench", *FLAGS, "--sizes", "4x6", "--memory", "64MiB", "--predict", "-o", str(tmp_path), "--force"]) == 0
    assert len(read_results(path).results) == 1


def test_nothing_is_lost_where_a_new_beginning_fails(made, capsys, tmp_path):
    path = tmp_path / "bench.json"
    path.write_text((made / "bench.json").read_text())
    assert "unknown policy" in refused(capsys, *FLAGS, "--sizes", "4x6", "--policies", "nope", "-o", str(tmp_path), "--force")
    assert path.read_text() == (made / "bench.json").read_text()


def test_files_of_one_problem_in_other_limits_are_other_rows(capsys, tmp_path):
    for name, memory in (("a", 2**26), ("b", 2**27)):
        problem = Problem(stacks=(Stack("evoformer", 1, 4),), n_res=6, memory=memory)
        (tmp_path / f"{name}.json").write_bytes(msgspec.json.encode(problem))
        assert main(["bench", str(tmp_path / f"{name}.json"), "--predict", "-o", str(tmp_path)]) == 0
    assert [r.problem.memory for r in read_results(tmp_path).results] == [2**26, 2**27]


def test_other_costs_are_other_rows(capsys, tmp_path):
    flags = ["--device", "H200", "--precision", "bf16", "--sizes", "128x256", "--blocks", "1", "-o", str(tmp_path)]
    assert main(["bench", *flags]) == 0 and main(["bench", *flags, "--costs", "modelled"]) == 0
    assert [r.costs for r in read_results(tmp_path).results] == ["measured", "modelled"]


def test_an_experiment_has_a_folder_of_its_own(made, capsys, tmp_path):
    (tmp_path / "study.json").write_text("{}")
    assert "has study.json, of another experiment" in refused(capsys, *CROSSED, "-o", str(tmp_path), "--force")
    (tmp_path / "bench.json").write_text((made / "bench.json").read_text())
    with pytest.raises(BadInput, match=r"two experiments, study.json and bench.json"):
        read_results(tmp_path)


@pytest.mark.parametrize(("argv", "words"), [
    (["--sizes", "²x3"], "expected n_seq x n_res"),
    (["study", "--n-seq", "3"], "--n-seq has no place with the study"),
    (["--sizes", "3x4", "--n-res", "4"], "--n-res has no place with --sizes"),
    (["--sizes", "12"], "expected n_seq x n_res"),
    (["--stack", "pairformer", "--sizes", "3x4"], "expected n_res"),
    (["--sizes", "3x4", "--repeat", "0"], "expected at least 1"),
    (["none.json"], "cannot read none.json"),
    (["."], "cannot read"),
    ([".", "--baseline", "."], "has no results"),
    (["--sizes", "3x4", "--policies", "huge"], "unknown policy 'huge'"),
    (["--sizes", "3x4", "--mode", "train", "--solvers", "huge"], "unknown solver 'huge'"),
])  # fmt: skip
def test_wrong_input(capsys, tmp_path, monkeypatch, argv, words):
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, *argv)


def test_a_named_card_is_predicted_without_torch(capsys):
    assert main(["bench", "--device", "A100-40GB", "--precision", "bf16", "--sizes", "128x256", "--blocks", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["machine"] == "" and found["results"][0]["status"] == "predicted" and "torch" not in found["versions"]


def test_the_device_is_this_machines_processor():
    from foldfit.cli.bench import here

    assert here(cpu()) and not here(replace(cpu(), name="A100-40GB"))
