"""The trace of a run: what Perfetto needs of it, and that it adds up to the plan."""

import json

import pytest

from foldfit.cli import main
from foldfit.plans import Plan

FLAGS = ["--n-seq", "4", "--n-res", "6", "--blocks", "3", "--mode", "train", "--memory", "46MiB"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trace")
    assert main(["plan", *FLAGS, "--policy", "large", "-o", str(folder / "plan.json")]) == 0
    assert main(["run", str(folder / "plan.json"), "--repeat", "0", "-o", str(folder / "run"), "--trace", str(folder / "t.json")]) == 0
    return folder


def test_planned_and_measured_side_by_side(made):
    found = json.loads((made / "t.json").read_text())
    plan, measured = Plan.load(made / "plan.json"), json.loads((made / "run" / "measured.json").read_text())
    assert found["otherData"]["plan"] == plan.digest
    names = {e["pid"]: e["args"]["name"] for e in found["traceEvents"] if e["name"] == "process_name"}
    assert names == {1: "planned, modelled costs", 2: "measured on cpu"}
    for pid, total in ((1, plan.promised.seconds), (2, sum(s["seconds"] for s in measured["steps"]))):
        pieces = [e for e in found["traceEvents"] if e["ph"] == "X" and e["pid"] == pid]
        steps = [e for e in pieces if e["name"].split()[0] in ("run", "record", "backward")]
        assert [e["name"] for e in steps] == [
            " ".join(s.split()[:2]) for s in plan.schedule if s.split()[0] in ("run", "record", "backward")
        ]
        assert [e["cat"] for e in steps] == ["forward"] * 3 + ["recompute", "backward"] * 3
        assert sum(e["dur"] for e in steps) == pytest.approx(1e6 * total)
        inner = [e for e in pieces if e not in steps]
        assert len(inner) == 9 * len(steps) and sum(e["dur"] for e in inner) == pytest.approx(1e6 * total)
        for a, b in zip(steps, steps[1:], strict=False):  # one after another, sub-modules inside
            assert b["ts"] == pytest.approx(a["ts"] + a["dur"])
    peak = max(e["args"]["promised peak, MiB"] for e in found["traceEvents"] if e["ph"] == "C" and e["pid"] == 1)
    assert peak * 2**20 == pytest.approx(plan.promised.peak_bytes)
    peak = max(e["args"]["measured peak, MiB"] for e in found["traceEvents"] if e["ph"] == "C" and e["pid"] == 2)
    assert 0.9 * plan.promised.peak_bytes < peak * 2**20 <= plan.promised.peak_bytes


def test_without_timed_steps_the_run_is_one_slice(made):
    from foldfit.cli.gather import planned_run
    from foldfit.report.trace import trace

    plan, measured = Plan.load(made / "plan.json"), json.loads((made / "run" / "measured.json").read_text())
    events = json.loads(trace(planned_run("x", plan, measured | {"steps": []})))["traceEvents"]
    (whole,) = [e for e in events if e["ph"] == "X" and e["pid"] == 2]
    assert whole["dur"] == pytest.approx(1e6 * measured["seconds"])


@pytest.mark.parametrize(("flags", "code", "words"), [
    (["--snapshot", "s.pickle"], 4, "CUDA's allocator"),
    (["--trace", "t.json"], 2, "t.json exists"), (["-o", "run"], 2, "measured.json exists"),
    (["--trace", "/proc/none/t.json"], 2, "cannot write"),
])  # fmt: skip
def test_wrong_input(made, capsys, monkeypatch, flags, code, words):
    monkeypatch.chdir(made)
    before = (made / "t.json").read_bytes()
    assert main(["run", "plan.json", "--repeat", "0", *flags]) == code
    error = capsys.readouterr().err.splitlines()
    assert words in error[-1] and all(line.startswith("note:") for line in error[:-1]) and (made / "t.json").read_bytes() == before
