"""What a problem may say."""

import msgspec
import numpy as np
import pytest
import torch

import foldfit
from foldfit.api import problem_of
from foldfit.cost.devices import find_device
from foldfit.errors import BadInput
from foldfit.planner.options import option_table
from foldfit.planner.policies import block_choices
from foldfit.problem import WORDS, Problem, Stack
from foldfit.runtime.trunk import Trunk

PROBLEM = Problem(stacks=(Stack("evoformer", 1, 4),), n_res=6, memory=2**30)


@pytest.mark.parametrize("name", sorted(WORDS))
def test_a_word_that_means_nothing_is_named_with_those_that_do(name):
    with pytest.raises(BadInput, match=f"{name}: expected one of .*, got 'nope'"):
        msgspec.structs.replace(PROBLEM, **{name: "nope"}).__post_init__()


@pytest.mark.parametrize(
    "wrong", [{"mode": "training"}, {"launch": "graphs"}, {"precision": "float32"}, {"optimizer": "adamw"}, {"policy": 3}]
)
def test_python_is_told_in_the_same_words(wrong):
    with pytest.raises(BadInput):
        foldfit.plan([Stack("evoformer", 1, 4)], n_res=6, memory="1GiB", **wrong)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"memory": 16e9}, "memory: expected bytes"), ({"host_memory": 1e9}, "host_memory: expected bytes"),
        ({"providers": ["zz"]}, "providers: expected cueq"), ({"providers": "zz"}, "providers: expected cueq"),
    ],
)  # fmt: skip
def test_arguments_without_sense_are_a_line(wrong, words):
    with pytest.raises(BadInput, match=words):
        foldfit.plan([Stack("evoformer", 1, 4)], n_res=6, **({"memory": "1GiB"} | wrong))


@pytest.mark.parametrize("model", ["evoformer", ["evoformer"], [], torch.nn.Linear(2, 2)])
def test_what_is_no_model_is_a_line(model):
    with pytest.raises(BadInput, match="expected a trunk, as foldfit.Evoformer, or its stacks"):
        foldfit.plan(model, n_res=6)


def test_a_provider_may_be_a_word():
    assert problem_of([Stack("evoformer", 1, 4)], n_res=6, providers="cueq")[1].providers == ("cueq",)
    assert foldfit.plan([Stack("evoformer", 1, 4)], n_res=6, memory=np.int64(2**30)).problem.memory == 2**30


def test_stacks_that_share_a_tensor_share_its_width():
    with pytest.raises(BadInput, match="c_z: expected one width of z in all stacks, got 128 in evoformer, 64 in pairformer"):
        foldfit.plan([Stack("evoformer", 1, 4), Stack("pairformer", 1, 0, {"c_z": 64})], n_res=6)
    with pytest.raises(BadInput, match="c_z: expected one width"):
        Trunk(("evoformer", 1, {}), ("pairformer", 1, {"c_z": 64}))


def test_stacks_that_share_a_tensor_share_its_size():
    """Which the stacks of two MSAs do not."""
    with pytest.raises(BadInput, match=r"evoformer: expected m of \(5, 6\), as in the stacks before, got \(4, 6\)"):
        foldfit.plan([Stack("evoformer", 1, 5), Stack("pairformer", 1), Stack("evoformer", 1, 4)], n_res=6)
    assert foldfit.plan([Stack("extra_msa", 1, 5), Stack("evoformer", 1, 4)], n_res=6, memory=2**30)


@pytest.mark.parametrize("options", [lambda o: o[0].choice, lambda o: None, lambda o: (o[0].choice,) * len(o)])
def test_a_policy_that_returns_something_else_is_named(options):
    def wrong(table):
        return [foldfit.BlockChoice(options(tuple(sub.options[0] for sub in table.stacks[0].sub_modules)))]

    table = option_table(PROBLEM, find_device("cpu"))
    with pytest.raises(BadInput, match="block 0: expected a BlockChoice of a tuple of the table's options"):
        block_choices(table, wrong(table))
