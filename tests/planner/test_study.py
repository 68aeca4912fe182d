"""The study's recurrence against all its combinations."""

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from foldfit.errors import DoesNotFit
from foldfit.planner import study
from foldfit.planner.table import Chain
from tests.planner.chains import chains


def memory(chain: Chain, options: tuple) -> int:
    """base + max r + sum s: the largest intermediate of any moment and all that is preserved."""
    subs = [(stage, sub) for stage in chain.stages() for sub in stage.subs]
    preserved = sum(sub.written + o.saved for (_, sub), o in zip(subs, options, strict=True))
    largest = max(
        max(chain.base_forward + o.inter - o.saved, chain.base_backward + stage.state + o.back - o.saved - sub.written)
        for (stage, sub), o in zip(subs, options, strict=True)
    )
    return largest + preserved


@settings(max_examples=80, deadline=None)
@given(chain=chains(options=2), extra=st.integers(0, 120))
def test_best_of_all_combinations(chain: Chain, extra: int) -> None:
    limit = chain.base_backward + extra
    every = list(product(*(sub.record for stage in chain.stages() for sub in stage.subs)))
    fitting = [o for o in every if memory(chain, o) <= limit]
    try:
        found = study.solve(chain, limit)
    except DoesNotFit as error:
        assert not fitting
        assert error.need == min(memory(chain, o) for o in every)
    else:
        assert found.seconds == min(sum(o.seconds + o.back_seconds for o in options) for options in fitting)
        assert {step.split()[0] for step in found.schedule} == {"record", "end", "backward"}
