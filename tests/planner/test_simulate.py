"""The simulator by hand: a chain of two blocks, every moment added up on paper."""

import pytest

from foldfit.planner.simulate import simulate
from foldfit.planner.table import Chain, Forward, Record, Stage, Sub

FIRST = Sub("first", 5, (Forward(7, 1.0, "f"),), (Record(4, 3, 6, 2.0, 4.0, "keep"), Record(4, 0, 9, 2.0, 5.0, "again")))
SECOND = Sub("second", 10, (Forward(2, 1.0, "f"),), (Record(8, 1, 2, 2.0, 4.0, "keep"),), final=True)
STAGE = Stage("stage", 10, (FIRST, SECOND))
CHAIN = Chain(((STAGE, 2),), base_forward=100, base_backward=130, outputs=10)
CHOICES = {"a": ("f", "f"), "b": ("keep", "keep"), "c": ("again", "keep")}


def test_all_recorded() -> None:
    timeline = simulate(CHAIN, CHOICES, ["record 0 b", "record 1 b", "end", "backward 1", "backward 0"])
    record = 5 + 3 + 10 + 1
    assert [(m.step, m.sub_module, m.peak) for m in timeline.moments] == [
        ("record 0 b", "first", 100 + 5 + 4),
        ("record 0 b", "second", 100 + 5 + 3 + 10 + 8),
        ("record 1 b", "first", 100 + record + 5 + 4),
        ("record 1 b", "second", 100 + record + 5 + 3 + 10 + 8),
        ("backward 1", "second", 130 + 10 + record + 5 + 3 + 2),
        ("backward 1", "first", 130 + 10 + record + 6),
        ("backward 0", "second", 130 + 10 + 5 + 3 + 2),
        ("backward 0", "first", 130 + 10 + 6),
    ]
    assert (timeline.peak, timeline.peak_at, timeline.seconds) == (169, "second of `backward 1`", 24.0)


def test_checkpoint_then_restart() -> None:
    steps = ["check 0", "run 0 a", "record 1 c", "end", "backward 1", "load 0", "record 0 b", "free 0", "backward 0"]
    timeline = simulate(CHAIN, CHOICES, steps)
    copied = 10  # the caller's input is not written into; what the run leaves is record 1's input
    assert [m.peak for m in timeline.moments] == [
        100 + copied,
        100 + copied + 7,
        100 + copied + 2,
        100 + copied + 5 + 4,
        100 + copied + 5 + 10 + 8,
        130 + 10 + copied + 5 + 2,
        130 + 10 + copied + 9,
        130 + 10 + 5 + 4,
        130 + 10 + 5 + 3 + 10 + 8,
        130 + 10 + 5 + 3 + 2,
        130 + 10 + 6,
    ]
    assert timeline.seconds == 2.0 + 4.0 + 9.0 + 4.0 + 8.0


def test_a_checkpoint_costs_nothing_until_the_next_run_copies() -> None:
    one = simulate(CHAIN, CHOICES, ["run 0 a", "run 1 a"])
    kept = simulate(CHAIN, CHOICES, ["run 0 a", "check 1", "run 1 a"])
    assert [m.peak for m in one.moments] == [110, 117, 112, 117, 112]
    assert [m.peak for m in kept.moments] == [110, 117, 112, 120, 127, 122]


def test_another_stage_keeps_only_what_the_caller_does_not_hold() -> None:
    chain = Chain(((STAGE, 1), (Stage("other", 20, (SECOND,), entry=4), 1)), 100, 150, 20)
    timeline = simulate(chain, {"a": ("f", "f"), "d": ("f",)}, ["run 0 a", "check 1", "run 1 d"])
    assert [m.peak for m in timeline.moments] == [110, 117, 112, 100 + 4 + 20, 100 + 4 + 20 + 2]


@pytest.mark.parametrize(
    "steps",
    [
        "backward 1",
        "record 0 b; end",
        "record 0 b; record 1 b; backward 1",
        "record 0 b; record 1 b; end; backward 0",
        "record 0 b; run 1 a; end; backward 1",
        "record 0 b; record 1 b; end; backward 1; backward 1",
        "record 0 b; record 0 b",
        "check 0; record 0 b; load 0; record 0 b",
        "record 0 b; record 1 b; end; backward 1; record 1 b",
        "run 1 a",
        "check 1",
        "load 0",
        "free 0",
        "check 0; free 0; free 0",
        "run 0 b",
        "record 0 a",
        "run 0 z",
        "run 0",
        "run x a",
        "run 2 a",
        "end 0",
        "jump 0",
    ],
)
def test_illegal_steps(steps: str) -> None:
    with pytest.raises(ValueError):
        simulate(CHAIN, CHOICES, steps.split("; "))


def test_a_choice_needs_a_key_for_each_sub_module() -> None:
    with pytest.raises(ValueError, match="each sub-module"):
        simulate(CHAIN, {"a": ("f",)}, ["run 0 a"])
