"""The plan file: what is read is what was written, and nothing else is taken for a plan."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldfit.errors import BadInput, MissingEnvironment, NotSupported
from foldfit.planner.api import plan_problem
from foldfit.plans import Plan, check_folder
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


def fails(code: int):
    def write(self, text):
        open(self, "w").close()
        raise KeyboardInterrupt if not code else OSError(code, os.strerror(code))

    return write


@pytest.mark.parametrize(("code", "error"), [
    (errno.ENOSPC, MissingEnvironment), (errno.EDQUOT, MissingEnvironment), (errno.EROFS, BadInput), (0, KeyboardInterrupt)
])  # fmt: skip
def test_nothing_is_left_half_written(tmp_path, monkeypatch, code, error):
    path = tmp_path / "plan.json"
    path.write_text("before")
    monkeypatch.setattr(Path, "write_text", fails(code))
    with pytest.raises(error, match="give another output" if code else None):
        PLAN.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"] and path.read_bytes() == b"before"


def test_what_is_no_file_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, Path("/dev/null")):
        with pytest.raises(BadInput, match="it is there and no file"):
            PLAN.save(path)
    assert pipe.is_fifo() and not Path("/dev/null").is_file()


def test_a_folder_is_tried_out(tmp_path):
    check_folder(tmp_path / "a" / "b")
    assert list(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a" / "b"]
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot write"):
        check_folder(tmp_path / "file")


def test_ranks_try_one_folder_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(check_folder, [tmp_path / "out"] * 400):
            pass
    assert list((tmp_path / "out").iterdir()) == []
