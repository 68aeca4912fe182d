"""Kernels of optional packages: planned where they are trusted or asked for, and never imported by a plan without them."""

import importlib.util
import json
from dataclasses import replace

import pytest
import torch

from foldfit.cli import main
from foldfit.cost.devices import find_device
from foldfit.cost.trust import Trust, mark, save_trust, trust_of
from foldfit.errors import MissingEnvironment, NotSupported
from foldfit.planner.options import option_table
from foldfit.plans import Choice
from foldfit.problem import Problem, Stack
from foldfit.stacks import stack_spec
from tests import cueq, small

H200 = find_device("H200")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    trust_of.cache_clear()
    yield tmp_path
    trust_of.cache_clear()


def problem(n_res=256, precision="bf16", mode="train", **widths) -> Problem:
    return Problem(
        stacks=(Stack("evoformer", 1, 128, widths),), n_res=n_res, mode=mode, precision=precision, device="H200", device_type="cuda",
        memory=2**36,
    )  # fmt: skip


def planned(p: Problem, device) -> dict[str, set[str]]:
    """Sub-module -> its kernels, of options that the mode can use."""
    return {
        sub.spec.name: {o.choice.kernel for o in sub.options if o.recordable or p.mode == "infer"}
        for sub in option_table(p, device).stacks[0].sub_modules
    }


ATTENTIONS = {"msa_row_attention_with_pair_bias", "triangle_attention_starting_node", "triangle_attention_ending_node"}


def with_cueq(p: Problem, device) -> set[str]:
    return {name for name, kernels in planned(p, device).items() if "cueq" in kernels}


def test_it_is_planned_where_it_is_asked_for(cache):
    assert with_cueq(problem(), H200) == set()
    assert with_cueq(problem(), replace(H200, providers=("cueq",))) == ATTENTIONS


def test_it_is_planned_where_it_was_checked_and_not_where_it_failed(cache):
    row = next(s for s in option_table(problem(), H200).stacks[0].sub_modules if s.spec.kind == "row_attention").spec
    triangle = next(s for s in option_table(problem(), H200).stacks[0].sub_modules if s.spec.kind == "triangle_attention").spec
    save_trust("H200", Trust(frozenset({mark("cueq", row, "bf16")}), frozenset({mark("cueq", triangle, "bf16")})))
    assert with_cueq(problem(), H200) == ATTENTIONS - {row.name}
    assert with_cueq(problem(precision="fp16"), H200) == set()
    assert with_cueq(problem(), replace(H200, providers=("cueq",))) == ATTENTIONS - {row.name}


def test_it_is_planned_within_the_shapes_and_precisions_that_it_has(cache):
    asked = replace(H200, providers=("cueq",))
    assert with_cueq(problem(n_res=100), asked) == set()
    assert with_cueq(problem(msa_dim=16), asked) == ATTENTIONS - {"msa_row_attention_with_pair_bias"}
    assert with_cueq(problem(precision="fp32"), asked) == set()  # its backward has no strict fp32
    assert with_cueq(problem(precision="fp32", mode="infer"), asked) == ATTENTIONS
    assert with_cueq(problem(precision="tf32"), asked) == ATTENTIONS


def test_a_plan_that_needs_it_says_what_to_install(monkeypatch):
    stack, model = small.stack("evoformer", rows=3), small.trunk(small.stack("evoformer", rows=3))
    kernels = [(sub.spec, "cueq" if "cueq" in sub.spec.kernels else "reference") for sub in model.sub_modules()[0]]
    choices = tuple(Choice(kernel, 99, 99 if spec.shares else 0) for spec, kernel in kernels)
    plan = small.unlimited(["run 0 r", "end"], {"r": choices}, stacks=(stack,), n_res=5)
    state = {"m": torch.randn(3, 5, 48), "z": torch.randn(5, 5, 32)}
    monkeypatch.delitem(__import__("sys").modules, cueq.NAME, raising=False)
    if importlib.util.find_spec(cueq.NAME) is None:
        with torch.no_grad(), pytest.raises(MissingEnvironment, match="pip install cuequivariance-torch"):
            model.run(state, {}, plan)
    cueq.install()
    with torch.no_grad():
        found = model.run(state, {}, plan)
        plain = small.unlimited(
            ["run 0 r", "end"], {"r": tuple(Choice("reference", 99, c.share_rows) for c in choices)}, stacks=(stack,), n_res=5
        )
        for name, x in model.run(state, {}, plain).items():
            torch.testing.assert_close(found[name], x)


def test_the_command_line_knows_it(cache, capsys):
    flags = ["plan", "--n-seq", "64", "--n-res", "256", "--blocks", "1", "--device", "H200", "--costs", "modelled", "--precision", "bf16"]
    assert main([*flags, "--providers", "cueq", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["policy"] == "auto"
    assert main([*flags, "--providers", "nobody"]) == 2
    assert "expected cueq" in capsys.readouterr().err


def test_a_sub_module_without_a_trusted_kernel_is_refused(cache):
    sub = next(s for s in stack_spec("extra_msa").sub_modules if s.kind == "global_attention")
    save_trust("cpu", Trust(frozenset({mark("reference", sub, "fp32")})))
    trust_of.cache_clear()
    with pytest.raises(NotSupported, match="msa_column_global_attention: no kernel in fp32 on cpu that is trusted"):
        option_table(Problem(stacks=(Stack("extra_msa", 1, 8),), n_res=16, memory=2**30), find_device("cpu"))
