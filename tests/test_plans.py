"""The plan file: what is read is what was written, and nothing else is taken for a plan."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldfit.errors import BadInput, NotSupported
from foldfit.planner.api import plan_problem
from foldfit.plans import Plan
from foldfit.problem import Problem, Stack

PLAN = plan_problem(Problem(stacks=(Stack("evoformer", 2, 5),), n_res=7, mode="train", memory=2**30))
TEXT = PLAN.dumps()


def test_a_plan_survives_its_file(tmp_path):
    PLAN.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == PLAN


@given(st.integers(0, len(TEXT) - 3))
def test_a_truncated_plan_is_bad_input(length):
    with pytest.raises(BadInput):
        Plan.loads(TEXT[:length])


@given(st.integers(0, len(TEXT) - 2), st.binary(min_size=1, max_size=4))
def test_an_edited_plan_is_refused_or_the_same(at, junk):
    data = TEXT.encode()
    edited = data[:at] + junk + data[at + len(junk) :]
    try:
        assert Plan.loads(edited) == PLAN
    except (BadInput, NotSupported) as error:
        assert str(error) and "\n" not in str(error)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_other_json_is_no_plan(value):
    with pytest.raises((BadInput, NotSupported)):
        Plan.loads(json.dumps(value))


@pytest.mark.parametrize("field", ["problem", "promised", "choices", "schedule", "resident", "policy"])
def test_a_changed_field_breaks_the_digest(field):
    data = json.loads(TEXT)
    value = data[field]
    if isinstance(value, dict):
        key = next(k for k, v in value.items() if isinstance(v, int)) if field != "choices" else next(iter(value))
        value[key] = value[key] + 1 if field != "choices" else value[key][:-1]
    else:
        data[field] = value[:-1]
    with pytest.raises(BadInput, match="changed after it was planned"):
        Plan.loads(json.dumps(data))
