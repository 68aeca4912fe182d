"""Plans for several ranks: made without having them, smaller a rank, and in the option space of one."""

from dataclasses import replace

import msgspec
import pytest

from foldfit.cost.collectives import SLOWED
from foldfit.cost.devices import COLLECTIVE_CALL, GRAPH_COLLECTIVE, HOSTS_TOGETHER, find_device
from foldfit.cost.memory import Setting
from foldfit.cost.seconds import updating
from foldfit.cost.sizes import Shapes, shapes_of
from foldfit.errors import BadInput, DoesNotFit, NotSupported
from foldfit.planner.api import frontier_of, plan_problem
from foldfit.planner.build import make_plan
from foldfit.planner.calls import calls
from foldfit.planner.clocks import host_decides
from foldfit.planner.layouts import Passage
from foldfit.planner.lengths import longest_n_res
from foldfit.planner.options import hardly_hidden, option_table, setting_of
from foldfit.planner.ranks import compare_ranks
from foldfit.plans import Choice
from foldfit.problem import Problem, Stack

DEVICE = find_device("H200")
PROBLEM = Problem(
    stacks=(Stack("evoformer", 4, 64),), n_res=128, mode="train", precision="bf16", parameters="bf16", dropout=True,
    device="H200", device_type="cuda", memory=2**35,
)  # fmt: skip


LONG = dict(mode="infer", dropout=False, stacks=(Stack("evoformer", 48, 128),), n_res=2048, memory=24 * 10**9)


def over(ranks: int, **other) -> Problem:
    return msgspec.structs.replace(PROBLEM, world=ranks, axial=ranks, **other)


def test_more_ranks_hold_less_each():
    peaks = [make_plan(option_table(over(n), DEVICE), "none").promised.peak_bytes for n in (1, 2, 4, 8)]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[2] < 0.5 * peaks[0]


@pytest.mark.parametrize("policy", ["none", "small", "large", "chunk", "auto"])
def test_every_policy_has_a_plan_for_a_thousand_ranks(policy):
    plan = plan_problem(over(1024), DEVICE, policy)
    assert all(c.layout for choices in plan.choices.values() for c in choices)
    assert 0 < plan.promised.exposed < plan.promised.seconds
    assert plan.bound is not None and plan.bound.gap >= 0


def test_alone_there_is_no_layout_and_nothing_is_exposed():
    plan = plan_problem(PROBLEM, DEVICE)
    assert not any(c.layout for choices in plan.choices.values() for c in choices)
    assert plan.promised.exposed == 0


def test_every_collective_is_called_by_the_host_or_takes_longer_in_a_graph(monkeypatch):
    eager, graph = (option_table(over(2, launch=launch), DEVICE) for launch in ("eager", "graph"))
    monkeypatch.setattr("foldfit.planner.options.HOSTS_TOGETHER", 1.0)
    apart = option_table(over(2), DEVICE)
    for name in ("COLLECTIVE_CALL", "GRAPH_COLLECTIVE"):
        monkeypatch.setattr(f"foldfit.planner.options.{name}", 0.0)
    plain = option_table(over(2), DEVICE)
    for subs in zip(*(table.stacks[0].sub_modules for table in (eager, graph, plain, apart)), strict=True):
        for a, b, c, d in zip(*(sub.options for sub in subs), strict=True):
            assert a.clocks[1] == pytest.approx([HOSTS_TOGETHER * x for x in d.clocks[1]])
            assert a.choice == b.choice == c.choice and a.clocks[0] == c.clocks[0]
            assert (b.seconds, b.back_seconds) == b.clocks[0] and a.seconds == max(clock[0] for clock in a.clocks)
            called = [(x - y) / COLLECTIVE_CALL for x, y in zip(d.clocks[1], c.clocks[1], strict=True)]
            assert all(abs(n - round(n)) < 1e-6 for n in called) and round(called[0]) >= len(subs[0].spec.shared)
            longer = [(x - y) / GRAPH_COLLECTIVE for x, y in zip(b.clocks[0], c.clocks[0], strict=True)]
            assert longer == pytest.approx(called, abs=1e-6)
            assert (b.exposed - a.exposed, b.back_exposed - a.back_exposed) == pytest.approx([n * GRAPH_COLLECTIVE for n in longer])
    plan, eagerly = plan_problem(over(2, launch="graph"), DEVICE), make_plan(eager)
    assert plan.promised.exposed > 0 and plan.resident["graph"] > 0
    assert host_decides(eager, eagerly) and eagerly.promised.seconds > 2 * plan.promised.seconds


def test_collectives_are_counted():
    """Of a triangle multiplication: gathered, in pieces that go around twice, or by channels, which an inference does; its gradient's way
    back; the pair relaid before it."""
    sub = option_table(over(4), DEVICE).stacks[0].sub_modules[5]
    passage = Passage({}, 0, False, 0, 0, 0, 0, 0, 0, 0.0, 0.0, calls=1, back_calls=2)
    here = Setting(Shapes({"z": (128, 128)}, {"z": 128}, 4, {"z": 1}), 2, batch=3)
    for choice, expected in (
        (Choice("triton", 32), (1 + 3, 2 + 3)), (Choice("triton", 32, 32, True), (1 + 3, 2 + 3 * 2)),
        (Choice("triton", 16, 32, True, piece_rows=32), (1 + 3 * 2 * 3, 2 + 3 * 2 * (3 + 4))),
        (Choice("triton", 32, 32, channels=True), (1 + 3 * 3, 2)),
    ):  # fmt: skip
        assert calls(choice, sub.spec, passage, here) == expected


def test_a_slice_is_of_the_rows_of_one_rank():
    plan = plan_problem(over(4), DEVICE, "none")
    (choices,) = plan.choices.values()
    rows = {c.layout: c.rows for c in choices[:3]}
    assert rows == {"m0 z0": 16, "m1 z0": 64}  # the transition keeps the column attention's layout, and maps all sequences
    assert [c.rows for c in choices[3:]] == [32, 32, 32, 32, 32, 128]


def test_replicas_need_what_one_does():
    one, two = (plan_problem(msgspec.structs.replace(PROBLEM, world=n, axial=n // 2), DEVICE) for n in (2, 4))
    assert two.promised.peak_bytes < one.promised.peak_bytes


def test_a_comparison_says_what_more_ranks_buy():
    rows = compare_ranks(over(1, mode="infer", dropout=False, memory=2**28), DEVICE, [1, 2, 4])
    assert [r.ranks for r in rows] == [1, 2, 4]
    assert rows[0].efficiency == 1 and all(r.efficiency and 0 < r.efficiency < 1 for r in rows[1:])
    assert rows[0].longest < rows[1].longest < rows[2].longest
    (small,) = compare_ranks(over(1, memory=2**20), DEVICE, [2])
    assert small.plan is None and small.error is not None and small.error.need > 2**20 and small.efficiency is None


@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"axial": 3}, BadInput), ({"world": 0}, BadInput), ({"mode": "infer", "dropout": False, "inputs": "overwritten"}, NotSupported)],
)
def test_what_ranks_cannot_do_is_said(wrong, error):
    with pytest.raises(error):
        msgspec.structs.replace(over(2), **wrong).__post_init__()


def test_pieces_make_room_for_longer_proteins():
    over_all = over(4, **LONG)
    one, four = (longest_n_res(msgspec.structs.replace(over_all, world=n, axial=n), DEVICE) for n in (1, 4))
    assert four > 1.9 * one
    plan = plan_problem(msgspec.structs.replace(over_all, n_res=four), DEVICE)
    assert any(c.piece_rows for c in plan.choices["a"])


def test_channels_are_exchanged_where_that_is_faster():
    for ranks in (2, 4, 8):
        table = option_table(over(ranks, **LONG), DEVICE)
        relaid, plan = make_plan(replace(table, loose=None)), make_plan(table)
        assert plan.promised.seconds < relaid.promised.seconds and any(c.channels for c in plan.choices["a"])
        assert table.having(plan.choices) is table.loose and table.having(relaid.choices) is table
        assert plan.bound is not None and plan.bound.seconds <= plan.promised.seconds
    assert not any(o.choice.channels for sub in option_table(over(4), DEVICE).stacks[0].sub_modules for o in sub.options)


def test_the_frontier_is_that_of_both_tables():
    table = option_table(over(4, **LONG, launch="graph"), DEVICE)
    curve = frontier_of(table, 24 * 10**9)
    for limit in (curve.limits[0], curve.limits[len(curve.limits) // 2], curve.limits[-1]):
        assert make_plan(table.within(int(limit))).promised.seconds == pytest.approx(curve.at(int(limit))[0])
    with pytest.raises(DoesNotFit) as error:
        make_plan(table.within(int(curve.limits[0]) - 1))
    assert error.value.need == curve.limits[0]


@pytest.mark.parametrize(("moving", "left"), [(0, 0), (6, 0), (8, 2)])
def test_pieces_and_relays_hide_behind_the_update(moving, left):
    """Which takes 6 seconds."""
    assert hardly_hidden(moving, 6.0) == left


def test_what_goes_on_beside_slows_the_kernels(monkeypatch):
    """Not what waits: `exposed` is the same."""
    slowed = option_table(over(2), DEVICE)
    monkeypatch.setattr("foldfit.planner.options.SLOWED", 0.0)
    plain = option_table(over(2), DEVICE)
    seconds = []
    for subs in zip(*(table.stacks[0].sub_modules for table in (slowed, plain)), strict=True):
        for a, b in zip(*(sub.options for sub in subs), strict=True):
            assert (a.choice, a.exposed, a.back_exposed) == (b.choice, b.exposed, b.back_exposed)
            seconds.append((a.choice.piece_rows, a.clocks[0][0] - b.clocks[0][0], b.clocks[0][0]))
    assert all(0 <= more <= SLOWED * whole for _, more, whole in seconds)
    assert all(more > 0 for rows, more, _ in seconds if rows) and any(more == 0 for _, more, _ in seconds)


@pytest.mark.parametrize("name", ["triangle_multiplication_outgoing", "pair_transition"])
def test_a_part_of_a_sub_module_updates(name):
    of = over(4)
    sub = next(s for s in option_table(of, DEVICE).stacks[0].sub_modules if s.spec.name == name).spec
    setting = setting_of(of, shapes_of(of, of.stacks[0])[1])
    part = updating(sub, sub.kernels["triton"]["cuda"], Choice("triton", 32, 32), setting, DEVICE, "bf16")
    assert part == 1 if name == "pair_transition" else 0.5 < part < 0.95
