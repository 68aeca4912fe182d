"""The study's tables, small, on this machine's processor."""

import json

import pytest

from foldfit.bench import study
from foldfit.bench.results import read_results
from foldfit.cli import main

ONCE = ["--repeat", "1", "--warmup", "0"]
KEPT = [row for row in study.STUDY if (row.part, row.n_seq) in (("Evoformer training", 128), ("inference", 128))]


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(study, "STUDY", KEPT)
    monkeypatch.setitem(study.SHRINK, "n_res", 64)


def test_every_figure_of_the_study_is_there():
    assert len(study.STUDY) == 12 + 3 + 6
    assert [r.peak for r in study.STUDY if r.n_res == 384 and r.stack == "evoformer"] == [None, 17810, 16230, 9416]


def test_tiny_is_measured_kept_and_gone_on_with(few, capsys, tmp_path):
    assert main(["bench", "study", "--scale", "tiny", "-o", str(tmp_path), *ONCE]) == 0
    table = capsys.readouterr().out
    assert "| Evoformer training 128 256 in small | 8 | 4 | 1 | small |" in table
    results = read_results(tmp_path / "study.json").results
    assert table == (tmp_path / "study.md").read_text() and (tmp_path / "study.csv").read_text().count("\n") == len(results) + 1
    by_status = {status: [r for r in results if r.status == status] for status in ("measured", "predicted")}
    assert len(by_status["measured"]) == 6 and len(by_status["predicted"]) == 9
    assert all(r.problem.axial > 1 and f"takes {r.problem.world} devices, 1 here" in r.note for r in by_status["predicted"])
    for r in by_status["measured"]:
        assert 0.9 * r.promised_peak <= r.peak <= r.promised_peak and r.seconds > 0 and r.gap >= 0
    # one row is gone: only it is run again
    data = json.loads((tmp_path / "study.json").read_text())
    lost = data["results"].pop(0)
    (tmp_path / "study.json").write_text(json.dumps(data))
    assert main(["bench", "study", "--scale", "tiny", "-o", str(tmp_path), "--json", *ONCE]) == 0
    again = {r["key"]: r for r in json.loads(capsys.readouterr().out)["results"]}
    assert again[lost["key"]]["promised_peak"] == lost["promised_peak"]
    assert all(again[r["key"]] == r for r in data["results"])


def test_only_the_rows_of_so_many_gpus(few, capsys):
    assert main(["bench", "study", "--device", "H200", "--gpus", "4", "--json"]) == 0
    assert {r["problem"]["world"] for r in json.loads(capsys.readouterr().out)["results"]} == {4}
    assert main(["bench", "study", "--gpus", "3"]) == 2
    assert "--gpus 3: the study has rows of 1, 2, 4 GPUs" in capsys.readouterr().err


def test_auto_stands_beside_every_experiment_at_every_limit():
    cases = list(study.cases("full", "H200", {"the study's": 2**35, "auto": 2**37}))
    keys = [case.key for case in cases]
    assert len(keys) == len(set(keys)) == len(study.STUDY) + 2 * (6 + 3 + 3)
    kinds = ("small @ auto", "large @ auto", "auto @ the study's", "auto @ auto")
    assert keys[:4] == [f"Evoformer training 128 256 1 {kind}" for kind in kinds]
    graphs = {(c.policy, c.problem.mode) for c in cases if c.problem.launch == "graph"}
    assert graphs == {("auto", "train")} == {("auto", c.problem.mode) for c in cases if c.policy == "auto"} - {("auto", "infer")}


def test_plans_made_elsewhere_are_run_where_the_device_is(few, capsys, tmp_path, monkeypatch):
    """A file of predictions, and its plans: the rows that run take their places, the others stay."""
    flags = ["bench", "study", "--scale", "tiny", "-o", str(tmp_path), *ONCE]
    assert main([*flags, "--predict"]) == 0
    before = capsys.readouterr().out
    assert {r.status for r in read_results(tmp_path).results} == {"predicted"}
    assert len(list((tmp_path / "plans").glob("*.json"))) == len(read_results(tmp_path).results) == 15
    monkeypatch.setattr("foldfit.bench.planned.make_plan", lambda *_: pytest.fail("planned again"))
    assert main([*flags, "--gpus", "1"]) == 0
    after = read_results(tmp_path)
    by_world = {(r.problem.world > 1, r.status) for r in after.results}
    assert by_world == {(False, "measured"), (True, "predicted")} and after.machine
    assert all(r.activation == pytest.approx(r.promised_activation, 0.01) for r in after.results if r.status == "measured")
    assert [line.split("|")[:6] for line in capsys.readouterr().out.splitlines()] == [line.split("|")[:6] for line in before.splitlines()]


def test_a_limit_may_be_a_cards_name(few, capsys):
    assert main(["bench", "study", "--device", "H100", "--gpus", "4", "--limits", "v100,74GiB", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["results"]
    assert {r["problem"]["memory"] / 2**30 for r in found if r["policy"] == "auto"} == {31.25, 74}


def test_another_card_is_predicted_near_the_study(capsys, monkeypatch):
    """A V100's rows: our promise of the study's own policies is within 16 % of what the study measured."""
    measured = [row for row in study.STUDY if row.part == "Evoformer training" and row.peak]
    monkeypatch.setattr(study, "with_auto", lambda _: measured)
    assert main(["bench", "study", "--device", "V100-32GB", "--json"]) == 0
    for row, r in zip(measured, json.loads(capsys.readouterr().out)["results"], strict=True):
        off = 0.16 if row.gpus == 1 else 0.25
        assert r["status"] == "predicted" and abs(r["promised_peak"] / 2**20 / row.peak - 1) < off, r["key"]


@pytest.mark.parametrize(("text", "code", "words"), [
    ("{", 2, "no result of foldfit bench"), ('{"schema": 7}', 4, "schema 7"),
    (
        '{"experiment":"study","scale":"full","device":"B200","machine":"","schema":3,"versions":{},"date":"","results":[]}', 2,
        "study, scale full, of B200",
    ),
])  # fmt: skip
def test_wrong_results_are_one_clear_line(few, capsys, tmp_path, text, code, words):
    (tmp_path / "study.json").write_text(text)
    assert main(["bench", "study", "--scale", "tiny", "-o", str(tmp_path), *ONCE]) == code
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and (tmp_path / "study.json").read_text() == text
