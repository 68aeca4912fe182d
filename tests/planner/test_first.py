from hypothesis import given, settings, strategies as st, HealthCheck
import time
from foldfit.errors import DoesNotFit
from foldfit.planner import chain as C, exhaustive as E
from foldfit.planner.simulate import simulate
from tests.planner.chains import chains
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(chains(), st.integers(0,120))
def test_equal(ch, extra):
    limit = ch.base_backward + extra
    try: e = E.solve(ch, limit)
    except DoesNotFit as err: e = err
    try: c = C.solve(ch, limit)
    except DoesNotFit as err: c = err
    if isinstance(e, DoesNotFit):
        assert isinstance(c, DoesNotFit), c
        assert c.need == e.need
        return
    assert not isinstance(c, DoesNotFit)
    assert c.seconds == e.seconds, (c, e)
    assert c.bound_seconds == c.seconds
