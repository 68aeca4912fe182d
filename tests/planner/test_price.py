"""What more memory buys."""

import numpy as np
import pytest

from foldfit.planner import chain as chain_solver
from foldfit.planner.price import next_size, shadow_price
from foldfit.planner.solution import Frontier
from tests.planner.chains import one_sub

CURVE = Frontier(np.array([10, 20, 30, 40]), np.array([np.inf, 9.0, 8.5, 6.0]), np.array([np.inf, 8.0, 8.0, 6.0]))


def test_shadow_price_is_the_steepest_slope_ahead() -> None:
    assert shadow_price(CURVE, 20) == pytest.approx(3.0 / 20)
    assert shadow_price(CURVE, 30) == pytest.approx(2.5 / 10)
    assert shadow_price(CURVE, 40) == 0.0
    assert shadow_price(CURVE, 10) == float("inf")


def test_frontier_between_its_limits() -> None:
    assert CURVE.at(25) == (9.0, 8.0)
    assert CURVE.at(9) == (float("inf"), float("inf"))
    assert CURVE.at(99) == (6.0, 6.0)


def test_next_size() -> None:
    found = next_size(CURVE, 20, [16, 20, 32, 40])
    assert found is not None and (found.limit, found.seconds, found.saved) == (32, 8.5, 0.5)
    assert next_size(CURVE, 40, [16, 20, 32, 40]) is None
    with pytest.raises(ValueError, match="ends at 40"):
        next_size(CURVE, 40, [80])


def test_nothing_more_to_buy_when_all_is_kept() -> None:
    chain = one_sub((5, 5, 5, 1.0), (2, 0, 4, 2.0), blocks=6, state=2)
    curve = chain_solver.frontier(chain, 10**6)
    assert curve.complete
    assert curve.at(10**6) == (12.0, 12.0)
    found = next_size(curve, 10**6, [10**7])
    assert found is not None and found.saved == 0.0
    tight = chain_solver.solve(chain, chain.base_backward + 20).frontier
    assert tight is not None and not tight.complete
    assert 0 < shadow_price(tight, chain.base_backward + 15) < float("inf")
