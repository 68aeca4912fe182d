"""The longest protein: what its number means, for `auto` and for policies, and the slices that there are of so many rows."""

from dataclasses import replace

import msgspec
import pytest

from foldfit.bench.case import Case
from foldfit.bench.planned import planned
from foldfit.cost.devices import cpu, find_device
from foldfit.errors import BadInput, DoesNotFit
from foldfit.planner.api import compare, frontier, plan_problem
from foldfit.planner.hopeless import staying
from foldfit.planner.lengths import least, longest_n_res
from foldfit.planner.options import option_table, slice_rows
from foldfit.planner.ranks import compare_ranks
from foldfit.problem import Problem, Stack
from tests import small


@pytest.mark.parametrize("policy", ["auto", "large", "chunk"])
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_the_longest_fits_and_the_next_does_not(mode, policy):
    problem = Problem(stacks=(small.stack("evoformer", 2, 6),), n_res=1, mode=mode, memory=2 * 2**20)
    longest = longest_n_res(problem, cpu(), policy)
    assert longest > 4
    assert plan_problem(msgspec.structs.replace(problem, n_res=longest), cpu(), policy).promised.peak_bytes <= problem.memory
    with pytest.raises(DoesNotFit, match=f"longest n_res that fits is {longest};"):
        plan_problem(msgspec.structs.replace(problem, n_res=longest + 1), cpu(), policy)
    assert longest_n_res(msgspec.structs.replace(problem, memory=1), cpu(), policy) == 0


def test_slices_are_the_fewest_rows_for_each_number_of_them():
    for total in (*range(1, 200), 1000, 4096, 9999):
        assert slice_rows(total) == tuple(sorted({-(-total // count) for count in range(1, total + 1)}, reverse=True))
    assert len(slice_rows(10**10)) == 725


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_sizes_beyond_hope_are_refused_by_what_stays_alone(monkeypatch, mode):
    problem = Problem(stacks=(small.stack("evoformer", 2, 99_999_999_999),), n_res=99_999_999, mode=mode, memory=2**30)

    def table(*_):
        raise AssertionError("nobody has the time to look at all its slices")

    for module in ("api", "lengths", "ranks"):
        monkeypatch.setattr(f"foldfit.planner.{module}.option_table", table)
    monkeypatch.setattr("foldfit.bench.planned.option_table", table)
    with pytest.raises(DoesNotFit, match="inputs .*limit is 1.00 GiB; no n_res fits.*give --memory") as error:
        plan_problem(problem, cpu())
    assert error.value.need > 99_999_999_999 * 99_999_999
    assert all(row.error.need == error.value.need for row in compare(problem, cpu()))
    with pytest.raises(DoesNotFit):
        frontier(problem, cpu())
    assert [row.longest for row in compare_ranks(problem, cpu(), [1, 2])] == [0, 0]
    assert longest_n_res(problem, cpu()) == 0
    assert planned(Case("absurd", problem, "auto"), cpu(), None, None).row.status == "does not fit"


def test_what_stays_is_below_what_any_plan_needs():
    for more in ({}, {"mode": "train", "optimizer": "adam", "dropout": True}, {"inputs": "overwritten", "host_memory": 2**40}):
        problem = Problem(stacks=(small.stack("evoformer", 2, 6),), n_res=12, memory=2**40, **more)
        stays = sum(staying(problem).values())
        assert 0 < stays < least(option_table(problem, cpu()))


SEVERAL = (small.stack("extra_msa", 1, 33), small.stack("evoformer", 1, 7), small.stack("pairformer", 1))


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (1, 2), (0, 1, 2)])
def test_the_longest_of_several_stacks_fits_all_of_them(order):
    problem = Problem(stacks=tuple(SEVERAL[i] for i in order), n_res=1, mode="infer", memory=2 * 2**20)
    longest = longest_n_res(problem, cpu())
    assert plan_problem(msgspec.structs.replace(problem, n_res=longest), cpu()).promised.peak_bytes <= problem.memory
    with pytest.raises(DoesNotFit) as error:
        plan_problem(msgspec.structs.replace(problem, n_res=longest + 1), cpu())
    assert plan_problem(msgspec.structs.replace(problem, n_res=longest + 1, memory=error.value.need), cpu())


@pytest.mark.parametrize(
    ("stacks", "mode", "device"),
    [((Stack("pairformer", 4),), "infer", "L4"), ((Stack("evoformer", 4, 32),), "train", "L4"), (SEVERAL[:2], "infer", "cpu")],
)
def test_no_plan_is_below_the_frontiers_bound(stacks, mode, device):
    found = replace(find_device(device), costs="modelled")
    problem = Problem(
        stacks=stacks, n_res=96, mode=mode, memory=2**33, device=found.name, device_type="cpu" if device == "cpu" else "cuda",
        precision="fp32" if device == "cpu" else "bf16", parameters="fp32" if device == "cpu" else "bf16",
    )  # fmt: skip
    for limit, seconds, bound in frontier(problem, found, 6).points:
        plan = plan_problem(msgspec.structs.replace(problem, memory=limit), found)
        assert bound <= plan.promised.seconds * (1 + 1e-9) and bound <= seconds
    with pytest.raises(BadInput, match="points"):
        frontier(problem, found, 0)
