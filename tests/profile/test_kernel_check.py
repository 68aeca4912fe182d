"""Kernels are checked on this machine, and one that fails is never planned."""

import json
from dataclasses import replace

import pytest

from foldfit.cli import main
from foldfit.cost.trust import trust_of
from foldfit.ops import KERNELS
from foldfit.planner.options import option_table
from foldfit.problem import Problem, Stack


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    trust_of.cache_clear()
    yield tmp_path
    trust_of.cache_clear()


def kernels_planned() -> set[str]:
    from foldfit.cost.devices import find_device

    problem = Problem(stacks=(Stack("evoformer", 1, 8),), n_res=16, memory=2**30)
    attention = option_table(problem, find_device("cpu")).stacks[0].sub_modules[1]
    return {o.choice.kernel for o in attention.options}


def test_all_kernels_of_this_machine_are_trusted(cache, capsys, monkeypatch):
    monkeypatch.setattr("foldfit.profile.kernel_check.N_SEQ", 9)
    monkeypatch.setattr("foldfit.profile.kernel_check.N_RES", 11)
    assert main(["doctor", "--kernels", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["kernels"]
    assert {r["kernel"] for r in rows} >= {"reference", "sdpa"} and all(r["trusted"] for r in rows)
    assert kernels_planned() == {"reference", "sdpa"}


def test_a_wrong_kernel_is_never_planned(cache, capsys, monkeypatch):
    monkeypatch.setattr("foldfit.profile.kernel_check.N_SEQ", 9)
    monkeypatch.setattr("foldfit.profile.kernel_check.N_RES", 11)
    right = KERNELS["sdpa"]
    monkeypatch.setitem(KERNELS, "sdpa", replace(right, attention=lambda *args: 1.001 * right.attention(*args)))
    assert main(["doctor", "--kernels"]) == 1
    out = capsys.readouterr()
    assert "NOT TRUSTED" in out.out and "sdpa column_attention fp32" in out.err
    assert kernels_planned() == {"reference"}
