"""The planner's moments beside the measured steps."""

from foldfit.planner.simulate import Moment
from foldfit.report.run import join


def test_phases():
    """A block that runs again is recomputed, whatever its step is called; a copy of the state belongs to what follows it."""
    steps = ["run 0 a", "run 1 a", "record 2 b", "backward 2", "run 0 a", "record 1 b", "backward 1", "record 0 b", "backward 0"]
    moments = [Moment(step, sub, 1, 2, 0.1) for step in steps for sub in ("x", "y")]
    moments.insert(0, Moment("run 0 a", "copy of the state", 5, 5, 0.0))
    found = join(moments, [])
    f, r, b = "forward", "recompute", "backward"
    assert [p.phase for p in found[::2]] == [f, f, f, b, r, r, b, r, b]
    assert [p.promised for p in found] == [5] + [2] * 17 and {p.choice for p in found if p.phase == b} == {""}
