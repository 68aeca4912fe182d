"""Profiling on this machine's processor."""

import json

import msgspec
import pytest

from foldfit.cli import main
from foldfit.cost.database import corrections, load_costs
from foldfit.profile import options

FLAGS = [
    "--stack",
    "evoformer",
    "--n-seq",
    "6",
    "--n-res",
    "8",
    "--blocks",
    "1",
    "--mode",
    "train",
    "--width",
    "c_m=16",
    "--width",
    "c_z=16",
]


def test_profile_adds_what_is_missing_and_plans_stand_on_it(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(options, "REPEATS", 2)
    path = str(tmp_path / "costs.json")
    assert main(["profile", *FLAGS, "--costs", path, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["measured"] == first["samples"] > 20
    costs = load_costs(path)
    assert all(s.forward > 0 and (s.backward > 0 or s.kernel != "reference") for s in costs.samples)
    assert main(["profile", *FLAGS, "--costs", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["measured"] == 0
    assert load_costs(path).samples == costs.samples
    assert main(["plan", *FLAGS, "--costs", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["costs"] == "measured"


def test_a_whole_run_corrects_the_sum(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(options, "REPEATS", 2)
    path = str(tmp_path / "costs.json")
    assert main(["profile", *FLAGS, "--costs", path, "--run"]) == 0
    costs = load_costs(path)
    assert list(costs.runs) == ["1 x evoformer 6, 8, train, fp32, eager"] and costs.factor > 0
    capsys.readouterr()
    promised = []
    for text in (costs, msgspec.structs.replace(costs, runs={})):
        text.save(path)
        corrections.cache_clear()
        assert main(["plan", *FLAGS, "--costs", path, "--json"]) == 0
        promised.append(json.loads(capsys.readouterr().out)["promised"]["seconds"])
    assert promised[0] == pytest.approx(costs.factor * promised[1], rel=0.05)


def test_a_card_that_is_not_here(capsys, tmp_path):
    import torch

    if not torch.cuda.is_available():
        assert main(["profile", *FLAGS, "--device", "H200", "--costs", str(tmp_path / "c.json")]) == 5
        assert "no H200 here" in capsys.readouterr().err
