"""The longest protein: what its number means, for `auto` and for policies, and the slices that there are of so many rows."""

import msgspec
import pytest

from foldfit.cost.devices import cpu
from foldfit.errors import DoesNotFit
from foldfit.planner.api import plan_problem
from foldfit.planner.lengths import longest_n_res
from foldfit.planner.options import slice_rows
from foldfit.problem import Problem
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
    assert len(slice_rows(10**10)) == 199_999
