"""Kernels are checked on this machine, and one that fails is never planned."""

import json
from dataclasses import replace

import pytest
import torch

from foldfit.cli import main
from foldfit.cost.trust import trust_of
from foldfit.ops import KERNELS
from foldfit.planner.options import option_table
from foldfit.problem import Problem, Stack
from foldfit.profile import kernel_check
from foldfit.stacks import STACKS, stack_spec
from tests import cueq


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


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_kernel_of_the_table_is_checked_in_every_precision(device, monkeypatch):
    cueq.install()
    seen = set()

    def look(sub, cost, axes, channels, kernel, precision, device_type):
        other = axes[sub.reads[0][0]][sub.reads[0][1] - 1]
        assert other >= cost.shortest and other % cost.multiple == 0
        seen.add((sub.kind, sub.writes[1], kernel, precision))

    monkeypatch.setattr(kernel_check, "check", look)
    for _ in kernel_check.verdicts(device, list(kernel_check.TOLERANCE)):
        pass
    table = {
        (sub.kind, sub.writes[1], kernel, precision)
        for name in STACKS
        for sub in stack_spec(name).sub_modules
        for kernel, on in sub.kernels.items()
        if device in on and on[device].made_for(sub.widths)
        for precision in on[device].precisions
    }
    assert seen == table


def test_a_kernel_without_a_backward_is_checked_forward():
    sub = next(s for s in stack_spec("evoformer", c_m=16, c_z=16, msa_heads=2, msa_dim=8).sub_modules if s.kind == "row_attention")
    cost = sub.kernels["sdpa"]["cpu"]
    assert not cost.update.record
    torch.manual_seed(0)
    verdict = kernel_check.check(sub, cost, {"m": (5, 7), "z": (7, 7)}, {"m": 16, "z": 16}, "sdpa", "fp32", "cpu")
    assert verdict.trusted and 0 < verdict.output < 1e-5 and verdict.inputs == verdict.parameters == 0
