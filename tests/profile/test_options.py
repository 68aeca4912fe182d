"""Profiling on this machine's processor."""

import argparse
import json
from collections import Counter

import msgspec
import pytest

from foldfit.cli import main, parser_of, profile
from foldfit.cli.profile import asked
from foldfit.cost.database import corrections, load_costs
from foldfit.cost.sample import Sample, name_of
from foldfit.planner import clocks
from foldfit.planner.worth import tasks
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
    assert all(s.forward > 0 for s in costs.samples)
    assert sum(s.backward > 0 for s in costs.samples if s.kernel == "reference") > len(costs.samples) / 3
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


def test_a_whole_run_that_the_host_decides_corrects_the_host(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(options, "REPEATS", 2)
    monkeypatch.setattr(clocks, "host_decides", lambda table, plan: True)
    path = str(tmp_path / "costs.json")
    assert main(["profile", *FLAGS, "--costs", path, "--run"]) == 0
    costs = load_costs(path)
    assert not costs.runs and list(costs.launched) == ["1 x evoformer 6, 8, train, fp32, eager"] and costs.host_factor > 0
    assert costs.factor == 1


def test_several_sizes_and_precisions_as_far_as_the_time_goes(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(options, "REPEATS", 2)
    path = str(tmp_path / "costs.json")
    many = ["profile", *FLAGS[:2], "--sizes", "6x8,5x9", "--precisions", "bf16,fp32", *FLAGS[6:], "--costs", path, "--json"]
    assert main([*many, "--minutes", "0"]) == 0
    none = json.loads(capsys.readouterr().out)
    assert none["measured"] == 0 and none["left"] > 80
    assert main(many) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["measured"] == none["left"] and found["left"] == 0 and "at other sizes" in found["errors"]
    costs = load_costs(path)
    assert {s.precision for s in costs.samples} == {"fp32", "bf16"} and {s.axes["z"] for s in costs.samples if "z" in s.axes} == {
        (8, 8),
        (9, 9),
    }
    assert len({s.identity for s in costs.samples}) == len(costs.samples)
    capsys.readouterr()
    assert main([*many[:-1], "--minutes", "1"]) == 0  # nothing is left
    assert capsys.readouterr().out.startswith("0 options measured; ")


def test_a_kernel_that_changed_is_measured_anew(capsys, tmp_path, monkeypatch):
    """Forgotten at once, so that what the time does not reach is left for the next call; others are not touched."""
    monkeypatch.setattr(options, "REPEATS", 1)
    path = str(tmp_path / "costs.json")
    call = ["profile", *FLAGS, "--costs", path, "--json"]
    assert main(call) == 0
    first = load_costs(path).samples
    capsys.readouterr()
    assert main([*call, "--again", "sdpa", "--minutes", "0"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["measured"] == 0 and out["left"] == sum(s.kernel == "sdpa" for s in first) > 0
    assert load_costs(path).samples == tuple(s for s in first if s.kernel != "sdpa")
    assert main(call) == 0
    assert json.loads(capsys.readouterr().out)["measured"] == out["left"]
    second = load_costs(path).samples
    assert {s.identity for s in second} == {s.identity for s in first}
    assert [s for s in second if s.kernel != "sdpa"] == [s for s in first if s.kernel != "sdpa"]


def test_all_begins_with_what_most_plans_stand_on():
    """Half precision at the published training sizes, whole, then long inference; every option once."""
    args = parser_of("profile").parse_args(["profile", "--all", "--device", "H100", "--memory", "72GiB"])
    found = tasks(*asked(args))
    first = [t.problem for t in found[:40]]
    assert {p.precision for p in first} == {"bf16"} and {(p.stacks[0].rows, p.n_res) for p in first} >= {(128, 256), (512, 384)}
    assert {(t.problem.mode, t.problem.n_res) for t in found[:50]} >= {("infer", 2048)}
    assert sum(t.choice.kernel == "triton" for t in found[:30]) > 25
    assert {t.problem.precision for t in found} == {"bf16", "fp16", "tf32", "fp32"}
    assert len({t.identity for t in found}) == len(found) > 1000


def test_a_card_that_is_not_here(capsys, tmp_path):
    import torch

    if not torch.cuda.is_available():
        assert main(["profile", *FLAGS, "--device", "H200", "--costs", str(tmp_path / "c.json")]) == 5
        assert "no H200 here" in capsys.readouterr().err


def test_all_kinds_of_kernels_are_compiled_once_a_precision(monkeypatch):
    """On a machine with a card, by processes of their own."""
    commands = []
    monkeypatch.setattr(profile.subprocess, "run", lambda command, **more: commands.append(command))
    parser = argparse.ArgumentParser()
    profile.add_arguments(parser)
    args = parser.parse_args(["--all", "--compile", "all", "--precisions", "bf16,fp16", "--device", "H200", "--costs", "modelled"])
    problems, device = profile.asked(args)
    profile.compile_ahead(args, tasks(problems, device))
    jobs = [(c[c.index("--precisions") + 1], c[c.index("--compile") + 1]) for c in commands]
    assert len(jobs) == len(set(jobs)) and {p for p, _ in jobs} == {"bf16", "fp16"}
    assert {kind for _, kind in jobs} >= {"transition", "swiglu_transition", "outer_product_mean", "triangle_multiplication"}


@pytest.fixture
def seen(monkeypatch) -> Counter:
    """How often each option was measured: more slices take longer, but for the first time that two rows are taken."""
    seen = Counter()

    def sample(bench, choice):
        once = Sample(
            name_of(bench.spec), choice.kernel, bench.precision, dict(bench.axes), choice.rows, choice.share_rows, 1 + 1 / choice.rows
        )
        seen[once.identity] += 1
        if seen["stop"] and seen[once.identity] == 2:
            raise KeyboardInterrupt
        return msgspec.structs.replace(once, forward=9.0) if choice.rows == 2 and seen[once.identity] == 1 else once

    monkeypatch.setattr(options.Bench, "sample", sample)
    return seen


def test_nothing_is_lost_where_the_second_look_is_stopped(tmp_path, seen):
    path = str(tmp_path / "costs.json")
    seen["stop"] = 1
    assert main(["profile", *FLAGS, "--costs", path]) == 1
    assert {s.identity for s in load_costs(path).samples} == seen.keys() - {"stop"}


def test_a_spike_is_measured_once_more(tmp_path, seen, capsys):
    path = str(tmp_path / "costs.json")
    assert main(["profile", *FLAGS, "--costs", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["measured"] == len(seen)
    samples = load_costs(path).samples
    assert {s.rows for s in samples if seen[s.identity] == 2} == {2}
    assert all(s.forward == 1 + 1 / s.rows for s in samples)
