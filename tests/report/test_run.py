"""What a report says of a run."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from foldfit.bench.results import Results, read_results
from foldfit.errors import BadInput, NotSupported
from foldfit.planner.api import compare, frontier
from foldfit.planner.simulate import Moment
from foldfit.problem import Problem, Stack
from foldfit.report.run import join, read_measured


def test_phases():
    """A block that runs again is recomputed, whatever its step is called; a copy of the state belongs to what follows it."""
    steps = ["run 0 a", "run 1 a", "record 2 b", "backward 2", "run 0 a", "record 1 b", "backward 1", "record 0 b", "backward 0"]
    moments = [Moment(step, sub, 1, 2, 0.1) for step in steps for sub in ("x", "y")]
    moments.insert(0, Moment("run 0 a", "copy of the state", 5, 5, 0.0))
    found = join(moments, [])
    f, r, b = "forward", "recompute", "backward"
    assert [p.phase for p in found[::2]] == [f, f, f, b, r, r, b, r, b]
    assert [p.promised for p in found] == [5] + [2] * 17 and {p.choice for p in found if p.phase == b} == {""}


def test_no_policy_is_below_the_bound_as_it_is_drawn():
    """Between two limits the bound is the higher one's: at any policy's need it is under that policy's seconds."""
    for memory in (50 * 2**20, 2**40):
        given = Problem(stacks=(Stack("evoformer", 3, 6),), n_res=9, mode="train", memory=memory)
        points = frontier(given, points=12).points
        for row in compare(given):
            if row.plan and row.plan.promised.peak_bytes <= points[-1][0]:
                low = next(bound for limit, _, bound in points if limit >= row.plan.promised.peak_bytes)
                assert low <= row.plan.promised.seconds * (1 + 1e-9)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "file.json"


WHOLE = {
    "peak_bytes": 3,
    "seconds": 1.5,
    "promised_peak_bytes": 4,
    "device": "cpu",
    "steps": [{"step": "run 0 a", "sub_module": "x", "peak_bytes": 3}],
}
TEXTS = [json.dumps(WHOLE), Results(experiment="bench", device="cpu", versions={}, date="").dumps()]
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))


@example('{"\\n": null}')
@given(JSON.map(json.dumps) | st.tuples(st.sampled_from(TEXTS), st.integers(1, 60)).map(lambda t: t[0].rstrip()[: -t[1]]) | st.text())
def test_other_text_is_no_measurement_and_no_result(path, text):
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for read in (read_measured, read_results):
        with pytest.raises((BadInput, NotSupported)) as error:
            read(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change", [{"peak_bytes": 0}, {"seconds": 0.0}, {"steps": [3]}, {"steps": [{"step": "x"}]}, {"exposed": "long"}, {"device": 1}]
)
def test_a_measurement_with_a_wrong_field(path, change):
    path.write_text(json.dumps(WHOLE))
    assert read_measured(path) == WHOLE
    path.write_text(json.dumps(WHOLE | change))
    with pytest.raises(BadInput, match=next(iter(change))):
        read_measured(path)
