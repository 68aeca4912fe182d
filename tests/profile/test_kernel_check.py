"""Kernels are checked on this machine, and one that fails is never planned."""

import json
import os
from dataclasses import replace

import pytest
import torch

from foldfit.cli import main
from foldfit.cost.devices import find_device
from foldfit.cost.trust import trust_of
from foldfit.ops import KERNELS
from foldfit.planner.options import option_table
from foldfit.problem import Problem, Stack
from foldfit.profile import kernel_check
from foldfit.profile.kernel_check import Case
from foldfit.profile.kernel_processes import verdicts
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
def test_every_kernel_of_the_table_is_checked_in_every_precision(device):
    cueq.install()
    seen, long = set(), set()
    for case in kernel_check.cases(device, list(kernel_check.TOLERANCE)):
        cost = case.sub.kernels[case.kernel][device]
        assert case.length >= cost.shortest and case.length % cost.multiple == 0
        row = (case.sub.kind, case.sub.writes[1], case.kernel, case.precision)
        seen.add(row)
        long |= {(*row, n) for p, n in cost.turns if p == case.precision and case.length > n}
    table = {
        ((sub.kind, sub.writes[1], kernel, precision), on[device].turns)
        for name in STACKS
        for sub in stack_spec(name).sub_modules
        for kernel, on in sub.kernels.items()
        if device in on and on[device].made_for(sub.widths)
        for precision in on[device].precisions
    }
    assert seen == {row for row, _ in table}
    assert long == {(*row, n) for row, turns in table for p, n in turns if p == row[-1]}


def attention_case(kernel: str, **changed) -> Case:
    sub = next(s for s in stack_spec("evoformer", c_m=16, c_z=16, msa_heads=2, msa_dim=8).sub_modules if s.kind == "row_attention")
    case = Case(sub, kernel, "fp32", {"m": (5, 7), "z": (7, 7)}, {"m": 16, "z": 16})
    return replace(case, **changed)


def test_a_kernel_without_a_backward_is_checked_forward():
    case = attention_case("sdpa")
    assert not case.sub.kernels["sdpa"]["cpu"].update.record
    verdict = kernel_check.check(case, "cpu")
    assert verdict.trusted and 0 < verdict.output < 1e-5 and verdict.inputs == verdict.parameters == 0


def test_what_a_kernel_raises_is_its_verdict(monkeypatch):
    def broken(*args):
        raise NotImplementedError("out of shared memory")

    monkeypatch.setitem(KERNELS, "sdpa", replace(KERNELS["sdpa"], attention=broken))
    verdict = kernel_check.check(attention_case("sdpa"), "cpu")
    assert not verdict.trusted and verdict.raised == "NotImplementedError: out of shared memory"


def outer_product_case(n_seq: int) -> Case:
    sub = next(s for s in stack_spec("evoformer", c_m=16, c_z=16).sub_modules if s.kind == "outer_product_mean")
    return Case(sub, "reference", "bf16", {"m": (n_seq, 70), "z": (70, 70)}, {"m": 16, "z": 16})


@pytest.mark.parametrize("n_seq", [40, 516])
def test_small_updates_are_judged_by_themselves(n_seq):
    """Not by how adding them to the pair and to a gradient rounds."""
    verdict = kernel_check.check(outer_product_case(n_seq), "cpu")
    assert verdict.trusted and max(verdict.output, verdict.inputs) < 0.01


@pytest.mark.parametrize("n_seq", [40, 516])
def test_a_gradient_that_is_not_added_to_is_found(n_seq, monkeypatch):
    right = kernel_check.apply.backward

    def forgets(call, state, kept, grads, gradients):
        before = grads["m"].clone()
        right(call, state, kept, grads, gradients)
        if before.dtype == torch.bfloat16:  # not what it is compared with
            grads["m"] -= before

    monkeypatch.setattr(kernel_check.apply, "backward", forgets)
    assert not kernel_check.check(outer_product_case(n_seq), "cpu").trusted


@pytest.mark.parametrize("wrong", ["output", "inputs", "parameters"])
def test_nan_is_not_trusted(wrong):
    good = kernel_check.Verdict("triton", "pair_transition", "transition", "bf16", 70, 0.0, 0.0, 0.0)
    assert good.trusted and not replace(good, **{wrong: float("nan")}).trusted
    assert not replace(good, kernel="reference", **{wrong: float("nan")}).trusted


def test_how_a_processor_sums_a_layer_norms_gradients_is_not_the_references_fault():
    """Which nothing else could take the place of."""
    off = kernel_check.Verdict("reference", "msa_column_global_attention", "global_attention", "bf16", 40, 0.01, 0.01, 0.07)
    assert off.trusted and not replace(off, kernel="triton").trusted and not replace(off, output=0.07).trusted


def test_the_reference_is_the_same_in_slices(monkeypatch):
    errors = []
    for rows in (2, 100):
        monkeypatch.setattr(kernel_check, "ROWS", rows)
        errors.append(kernel_check.errors_of(attention_case("reference"), "cpu"))
    assert errors[0] == pytest.approx(errors[1], rel=1e-6) and min(errors[0]) > 0


class Crash:
    """What ends the process that it comes to."""

    def __reduce__(self):
        return os._exit, (3,)


def test_processes_give_the_same_verdicts_and_one_that_crashes_is_not_trusted():
    some = [c for c in kernel_check.cases("cpu", ["fp32"]) if c.sub.kind == "single_attention"]
    found = dict(verdicts({"one": some, "other": [replace(some[0], channels=Crash())]}, "cpu", 2))
    assert found["one"] == [kernel_check.check(c, "cpu") for c in some]
    (none,) = found["other"]
    assert not none.trusted and none.raised == "its process ended with exit code 3"


def test_what_was_stopped_goes_on_where_it_was(cache, capsys, monkeypatch):
    """Verdicts are kept one by one; a run that came to its end starts anew."""
    asked = list(kernel_check.cases("cpu", ["fp32"]))
    monkeypatch.setattr(kernel_check, "cases", lambda device, precisions, widths: iter(asked))
    seen: list[str] = []
    good = kernel_check.Verdict("reference", "x", "x", "fp32", 7, 0.0, 0.0, 0.0)

    def look(case, device):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(case.mark)
        return good if len(seen) != 2 else replace(good, output=1.0)

    monkeypatch.setattr(kernel_check, "check", look)
    assert main(["doctor", "--kernels"]) == 1
    done = seen.copy()
    assert trust_of("cpu").checked and len(trust_of("cpu").failed) == 1
    monkeypatch.setattr(kernel_check, "check", lambda case, device: seen.append(case.mark) or good)
    assert main(["doctor", "--kernels"]) == 1, "what failed before the stop still does"
    assert "checked before" in capsys.readouterr().err
    assert {c.mark for c in asked} == set(seen) and not trust_of("cpu").checked
    assert not set(seen[len(done) :]) & {m for m in done if done.count(m) == sum(c.mark == m for c in asked)}
    assert main(["doctor", "--kernels"]) == 0 and not trust_of("cpu").failed


def test_flags_leave_some_kernels_or_none(cache, capsys, monkeypatch):
    monkeypatch.setattr(kernel_check, "N_SEQ", 9)
    monkeypatch.setattr(kernel_check, "N_RES", 11)
    assert main(["doctor", "--kernels", "sdpa", "--precisions", "bf16", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["kernels"]
    assert {(r["kernel"], r["precision"]) for r in rows} == {("sdpa", "bf16")}
    assert main(["doctor", "--kernels", "triton"]) == 2
    assert "no kernel triton on cpu" in capsys.readouterr().err


def test_other_widths_are_checked_and_trusted_for_themselves(cache, capsys, monkeypatch):
    monkeypatch.setattr(kernel_check, "N_SEQ", 9)
    monkeypatch.setattr(kernel_check, "N_RES", 11)
    right = KERNELS["sdpa"]

    def wrong(x, *rest):
        return (1.001 if x.shape[-1] == 24 else 1) * right.attention(x, *rest)

    monkeypatch.setitem(KERNELS, "sdpa", replace(right, attention=wrong))
    assert main(["doctor", "--kernels", "sdpa", "--precisions", "fp32"]) == 0
    assert main(["doctor", "--kernels", "sdpa", "--precisions", "fp32", "--width", "c_m=24"]) == 1
    out = capsys.readouterr()
    assert "sdpa column_attention fp32 c=24" in out.err and "triangle_attention" not in out.err
    assert kernels_planned() == {"reference", "sdpa"}  # at the published widths
    problem = Problem(stacks=(Stack("evoformer", 1, 8, {"c_m": 24}),), n_res=16, memory=2**30)
    attention = option_table(problem, find_device("cpu")).stacks[0].sub_modules[1]
    assert {o.choice.kernel for o in attention.options} == {"reference"}
    assert main(["doctor", "--kernels", "--width", "c_q=3"]) == 2
    assert "c_q" in capsys.readouterr().err
