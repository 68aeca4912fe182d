"""What a problem may say."""

import msgspec
import pytest

import foldfit
from foldfit.errors import BadInput
from foldfit.problem import WORDS, Problem, Stack

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
