"""`foldfit run` as torchrun starts it, on the CPU."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from foldfit.cli import main
from foldfit.cost.collectives import COLLECTIVES, are_measured
from foldfit.cost.devices import find_device
from foldfit.plans import Plan
from tests import small
from tests.runtime.test_ranks import PLANS

ROOT = Path(__file__).parents[2]
PATIENCE = 240
"""Seconds, on a busy machine; below the five minutes in which a collective gives up, which a fault must not take."""


def saved(folder: Path, size: int, **problem) -> Path:
    trunk = small.trunk(small.stack("evoformer", 2))
    plan: Plan = PLANS["blocks recomputed" if problem.get("mode") != "infer" else "whole, kept"](trunk, size, **problem)
    path = folder / f"plan{size}.json"
    plan.save(path)
    return path


@contextlib.contextmanager
def torchrun(size: int, *args: str, module: str = "foldfit") -> Iterator[subprocess.Popen]:
    """`foldfit run`, unless the arguments begin with another verb."""
    args = args if args[0] == "profile" else ("run", *args)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size), "-m", module, *args]
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()  # it ends its ranks; killed, it would leave them running beside all later tests


def finished(size: int, *args: str, module: str = "foldfit") -> tuple[int, str, str]:
    with torchrun(size, *args, module=module) as process:
        out, error = process.communicate(timeout=PATIENCE)
        return process.returncode, out, error


def test_two_ranks_run_a_plan(tmp_path):
    code, out, error = finished(2, str(saved(tmp_path, 2)), "--json", "-o", str(tmp_path / "out"))
    assert code == 0, error
    measured = json.loads(out)  # one object: the other rank is silent
    assert len(measured["rank_peaks"]) == 2 and measured["peak_bytes"] == max(measured["rank_peaks"])
    assert 0 < measured["exposed"] < measured["seconds"]
    assert json.loads((tmp_path / "out" / "measured.json").read_text()) == measured


def test_the_representations_are_those_of_one(tmp_path):
    files = []
    for size in (1, 2):
        files.append(tmp_path / f"{size}.safetensors")
        plan = saved(tmp_path, size, mode="infer", n_res=6)
        arguments = [str(plan), "--repeat", "0", "--save", str(files[-1]), "--msa", str(alignment(tmp_path))]
        code, _, error = finished(size, *arguments)
        assert code == 0, error
    one, two = (load_file(f) for f in files)
    assert all((one[k] - two[k]).norm() <= 1e-5 * one[k].norm() for k in one)


def alignment(folder: Path) -> Path:
    path = folder / "a.a3m"
    path.write_text(">query\nMKVLAT\n" + "".join(f">s{i}\nMK{a}LAT\n" for i, a in enumerate("ACDEFG")))
    return path


def test_another_number_of_ranks_is_a_line(tmp_path, capsys):
    path = saved(tmp_path, 2)
    assert main(["run", str(path)]) == 2
    assert "the plan is for 2 ranks, 1 was started: torchrun --nproc-per-node 2 -m foldfit run" in capsys.readouterr().err
    code, _, error = finished(3, str(path))
    assert code != 0 and "the plan is for 2 ranks, 3 were started" in error


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("out of memory", "rank 1: the device has no"),
        ("other flags", "ranks must agree: --save is False on rank 0, True on rank 1"),
        # By either: torchrun may end rank 0 before it has said that it is rank 1 that cannot go on.
        ("other version", "rank 1( cannot go on)?: the plan was made by foldfit .*, this is 9.9.9"),
    ],
)
def test_a_fault_of_one_rank_ends_all_with_a_line(tmp_path, fault, said):
    (tmp_path / "fault").write_text(fault)
    begin = time.monotonic()
    code, out, error = finished(
        2, str(saved(tmp_path, 2, mode="infer")), "--seed", "3", "-o", str(tmp_path / "out"), module="tests.cli.faulty"
    )
    assert code != 0 and not out and time.monotonic() - begin < PATIENCE
    lines = [line for line in error.splitlines() if line.startswith("foldfit run: ")]
    assert any(re.search(said, line) for line in lines), error


def test_collectives_are_measured_between_ranks(tmp_path):
    path = tmp_path / "c.json"
    code, out, error = finished(2, "profile", "--gpus", "2", "--device", "cpu", "--memory", "3MiB", "--costs", str(path), "--json")
    assert code == 0, error
    found = json.loads(out)["collectives"]
    assert {c["name"] for c in found} == set(COLLECTIVES) and all(c["seconds"] > 0 and c["ranks"] == 2 for c in found)
    assert are_measured(replace(find_device("cpu"), costs=str(path)), 2)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the ranks in /proc")
def test_a_rank_that_dies_ends_all(tmp_path):
    with torchrun(2, str(saved(tmp_path, 2)), "--repeat", "100000") as process:
        ranks: list[int] = []
        for _ in range(10 * PATIENCE):
            ranks = children(process.pid)
            if len(ranks) == 2 and all("libtorch_cpu" in maps(p) for p in ranks):
                break
            time.sleep(0.1)
        time.sleep(3)
        os.kill(ranks[1], signal.SIGKILL)
        _, error = process.communicate(timeout=PATIENCE)
        assert process.returncode != 0
        assert not any(Path(f"/proc/{p}").exists() for p in ranks)
        assert "Signal 9" in error or "SIGKILL" in error


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(p) for p in path.read_text().split()] if path.exists() else []


def maps(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return ""
