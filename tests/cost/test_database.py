"""Measured costs: read back as written, exact where measured, by the nearest samples elsewhere."""

from dataclasses import replace

import msgspec
import pytest

from foldfit.cost.database import KERNELS, Costs, find_costs, load_costs
from foldfit.cost.devices import find_device
from foldfit.cost.memory import Setting
from foldfit.cost.sample import Sample, name_of, sub_channels, used_axes
from foldfit.cost.seconds import sub_module_seconds
from foldfit.cost.sizes import Shapes
from foldfit.errors import BadInput, NotSupported
from foldfit.planner.api import plan_problem
from foldfit.planner.options import option_table
from foldfit.planner.worth import tasks
from foldfit.problem import Problem, Stack

PROBLEM = Problem(
    stacks=(Stack("evoformer", 4, 128),), n_res=256, mode="train", precision="bf16", parameters="bf16", device="RTX 4090",
    device_type="cuda", memory=20 * 2**30, dropout=True,
)  # fmt: skip
CARD = find_device("RTX 4090")


def costs_of(problem, factor=3.0, kernels=("reference", "triton"), device=CARD):
    """As a profile would find them on a card that is `factor` slower than the model says."""
    samples = []
    for task in tasks([problem], device):
        sub, choice, axes = task.sub, task.choice, used_axes(task.sub, task.shapes.axes)
        if choice.kernel in kernels:
            setting = Setting(Shapes(axes, sub_channels(sub)), problem.itemsize)
            modelled = sub_module_seconds(sub, sub.kernels[choice.kernel]["cuda"], choice, setting, device, problem.precision)
            seconds = [factor * x for x in modelled]
            samples.append(Sample(name_of(sub), choice.kernel, problem.precision, axes, choice.rows, choice.share_rows, *seconds))
    return Costs(device=device.name, versions={"torch": "x"}, kernels=KERNELS, date="2026-11-23", samples=tuple(samples))


@pytest.fixture
def slow(tmp_path):
    costs_of(PROBLEM).save(tmp_path / "c.json")
    return replace(CARD, costs=str(tmp_path / "c.json"))


def test_a_database_survives_its_file(tmp_path):
    costs = costs_of(PROBLEM)
    costs.save(tmp_path / "c.json")
    assert load_costs(tmp_path / "c.json") == costs


def test_what_was_measured_is_what_a_plan_says(slow):
    modelled = {
        (s.spec.name, o.choice): o for s in option_table(PROBLEM, replace(CARD, costs="modelled")).stacks[0].sub_modules for o in s.options
    }
    seen = 0
    for sub in option_table(PROBLEM, slow).stacks[0].sub_modules:
        for o in sub.options:
            if o.measured:
                m = modelled[sub.spec.name, o.choice]
                assert o.seconds == pytest.approx(3 * m.seconds) and o.back_seconds == pytest.approx(3 * m.back_seconds)
                seen += 1
    assert seen > 100


def test_other_sizes_are_off_by_the_factor_of_their_neighbours(slow):
    other = msgspec.structs.replace(PROBLEM, n_res=400)
    plan, plain = plan_problem(other, slow), plan_problem(other, replace(CARD, costs="modelled"))
    assert plan.costs == "measured" and plain.costs == "modelled"
    assert plan.promised.seconds == pytest.approx(3 * plain.promised.seconds, rel=1e-6)


def test_what_was_measured_of_earlier_kernels_is_a_model(tmp_path):
    msgspec.structs.replace(costs_of(PROBLEM), kernels=KERNELS - 1).save(tmp_path / "c.json")
    plan = plan_problem(PROBLEM, replace(CARD, costs=str(tmp_path / "c.json")))
    plain = plan_problem(PROBLEM, replace(CARD, costs="modelled"))
    assert plan.costs == "modelled"
    assert plan.promised.seconds == pytest.approx(3 * plain.promised.seconds, rel=1e-6)


def test_a_kernel_that_nobody_measured_is_not_chosen_for_it(tmp_path):
    costs_of(PROBLEM, kernels=("reference",)).save(tmp_path / "c.json")
    table = option_table(PROBLEM, replace(CARD, costs=str(tmp_path / "c.json")))
    attention = table.stacks[0].sub_modules[0]
    whole = {o.choice.kernel: o for o in attention.options if o.choice.rows == 128 and not o.choice.recompute}
    assert whole["reference"].measured and not whole["triton"].measured
    plain = option_table(PROBLEM, replace(CARD, costs="modelled")).stacks[0].sub_modules[0]
    assert whole["triton"].seconds == pytest.approx(3 * next(o for o in plain.options if o.choice == whole["triton"].choice).seconds)


def test_whole_runs_scale_every_option(tmp_path):
    costs = msgspec.structs.replace(costs_of(PROBLEM), runs={"a": 1.1, "b": 1 / 1.1, "c": 1.331})
    assert costs.factor == pytest.approx(1.1)


def test_launched_runs_scale_the_hosts_seconds_alone(tmp_path):
    tables = []
    for launched, factor, spread in (({}, 1.1, 0.0), ({"a": 0.5, "b": 0.32}, 0.4, 0.05125**0.5)):
        costs = msgspec.structs.replace(costs_of(PROBLEM), runs={"c": 1.1}, launched=launched)
        assert (costs.host_factor, costs.host_spread) == (pytest.approx(factor), pytest.approx(spread))
        path = tmp_path / f"{len(launched)}.json"
        costs.save(path)
        tables.append(option_table(PROBLEM, replace(CARD, costs=str(path))))
    for before, after in zip(*(table.stacks[0].sub_modules for table in tables), strict=True):
        for a, b in zip(before.options, after.options, strict=True):
            (device, host), (same, scaled) = a.clocks, b.clocks
            assert same == device and scaled == pytest.approx([x * 0.4 / 1.1 for x in host])


def test_wrong_files_are_one_clear_line(tmp_path):
    path = tmp_path / "c.json"
    with pytest.raises(BadInput, match="cannot read"):
        load_costs(path)
    path.write_text("{")
    with pytest.raises(BadInput, match="no cost database"):
        load_costs(path)
    path.write_text('{"schema": 9}')
    with pytest.raises(NotSupported, match="schema 9"):
        load_costs(path)
    bad = costs_of(PROBLEM)
    msgspec.structs.replace(bad, samples=(msgspec.structs.replace(bad.samples[0], forward=0.0),)).save(path)
    with pytest.raises(BadInput, match="not positive"):
        load_costs(path)
    msgspec.structs.replace(bad, launched={"a": 0.0}).save(path)
    with pytest.raises(BadInput, match="not positive"):
        load_costs(path)
    bad.save(path)
    with pytest.raises(BadInput, match="was measured on RTX 4090, the plan is for H200"):
        find_costs(replace(find_device("H200"), costs=str(path)))


def test_the_shipped_database_is_found():
    """By kernels that it has: a plan by others stands on the model."""
    problem = msgspec.structs.replace(PROBLEM, device="H200", launch="graph", n_res=384, stacks=(Stack("evoformer", 48, 512),))
    assert plan_problem(problem, replace(find_device("H200"), without=("triton",))).costs == "measured"


def test_whole_runs_correct_the_sum_and_say_how_far_they_are_apart():
    costs = Costs(device="H200", versions={}, date="", runs={"one": 1.1, "another": 1.0})
    assert costs.factor == pytest.approx(1.1**0.5) and costs.spread == pytest.approx(0.0477, abs=1e-3)
    assert Costs(device="H200", versions={}, date="").spread == 0
