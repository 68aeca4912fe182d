"""The bound against HiGHS: with no way to run a block unrecorded, the best schedule is a mixed-integer program."""

import highspy
import numpy as np
import pytest

from foldfit.planner import chain as chain_solver
from foldfit.planner.simulate import simulate
from foldfit.planner.solution import Step, write
from foldfit.planner.table import Chain, Record, Stage, Sub


def random_chain(seed: int, blocks: int = 5, scale: int = 1) -> Chain:
    rng = np.random.default_rng(seed)
    subs = []
    for j in range(3):
        record = []
        for k in range(6):
            saved = int(rng.integers(0, 12)) * int(rng.integers(0, 2)) * scale
            inter, back = (saved + int(x) * scale for x in rng.integers(0, 20, 2))
            record.append(Record(inter, saved, back, float(rng.uniform(1, 2)), float(rng.uniform(2, 6)), k))
        subs.append(Sub(f"sub{j}", int(rng.integers(1, 4)) * scale, (), tuple(record), j == 2))
    return Chain(((Stage("stage", 4 * scale, tuple(subs)), blocks),), 10 * scale, 20 * scale, 4 * scale)


def highs_steps(chain: Chain, limit: int) -> list[Step] | None:
    """The prefix model: an option for each sub-module of each block, all moments of record and backward in the limit."""
    model = highspy.Highs()
    model.setOptionValue("output_flag", False)
    model.setOptionValue("mip_rel_gap", 0.0)
    blocks = chain.stages()
    x = [[[model.addBinary() for _ in sub.record] for sub in stage.subs] for stage in blocks]
    objective, before, constant = 0.0, 0.0, 0
    for i, stage in enumerate(blocks):
        for j, sub in enumerate(stage.subs):
            own = list(zip(x[i][j], sub.record, strict=True))
            model.addConstr(sum(v for v, _ in own) == 1)
            model.addConstr(before + sum(o.inter * v for v, o in own) <= limit - chain.base_forward - constant - sub.written)
            model.addConstr(before + sum(o.back * v for v, o in own) <= limit - chain.base_backward - stage.state - constant)
            before = before + sum(o.saved * v for v, o in own)
            constant += sub.written
            objective = objective + sum((o.seconds + o.back_seconds) * v for v, o in own)
    model.minimize(objective)
    if model.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    # A solver's 1 may be 0.9999999: an option is chosen above one half.
    chosen = [
        tuple(next(o for v, o in zip(x[i][j], sub.record, strict=True) if model.val(v) > 0.5) for j, sub in enumerate(stage.subs))
        for i, stage in enumerate(blocks)
    ]
    forward = [Step("record", i, options) for i, options in enumerate(chosen)]
    return [*forward, Step("end"), *(Step("backward", i) for i in reversed(range(len(blocks))))]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("room", [60, 90, 130])
def test_same_optimum_as_highs(seed: int, room: int) -> None:
    chain = random_chain(seed)
    limit = chain.base_backward + room
    steps = highs_steps(chain, limit)
    if steps is None:
        with pytest.raises(chain_solver.DoesNotFit):
            chain_solver.solve(chain, limit)
        return
    timeline = simulate(chain, *write(steps))
    found = chain_solver.solve(chain, limit)
    assert timeline.peak <= limit
    assert found.seconds == pytest.approx(timeline.seconds, rel=1e-9)
    assert found.bound_seconds == pytest.approx(found.seconds, rel=1e-9)


@pytest.mark.parametrize("slots", [30, 100, 300])
def test_rounded_certificate_encloses_highs(slots: int) -> None:
    chain = random_chain(7, scale=997)
    limit = chain.base_backward + 60 * 997
    steps = highs_steps(chain, limit)
    assert steps is not None
    optimum = simulate(chain, *write(steps)).seconds
    found = chain_solver.solve(chain, limit, slots)
    assert found.bound_seconds <= optimum * (1 + 1e-9)
    assert optimum <= found.seconds * (1 + 1e-9)
    assert chain_solver.bound(chain, limit, slots) == pytest.approx(found.bound_seconds, rel=1e-9)
    assert chain_solver.solve(chain, 10 * limit, slots).seconds < optimum  # the limit is felt
