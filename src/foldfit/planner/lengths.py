"""What each policy needs for longer and shorter proteins: no limit, no seconds, so that it is quick."""

from collections.abc import Iterable

import msgspec

from foldfit.cost.devices import Device
from foldfit.errors import BadInput, DoesNotFit, NotSupported
from foldfit.planner.build import chain_of, make_plan, policy_schedule
from foldfit.planner.options import OptionTable, option_table
from foldfit.planner.policies import POLICIES, block_choices
from foldfit.planner.simulate import simulate
from foldfit.problem import Problem

FACTORS = (1 / 4, 1 / 2, 1 / 2**0.5, 1, 2**0.5, 2, 4)


def least(table: OptionTable) -> int:
    """Bytes of the thriftiest plan found."""
    try:
        make_plan(OptionTable(msgspec.structs.replace(table.problem, memory=1), table.device, table.stacks))
    except DoesNotFit as error:
        return error.need
    raise AssertionError("nothing fits into one byte")


def needs(problem: Problem, device: Device, factors: Iterable[float] = FACTORS) -> dict[int, dict[str, int]]:
    """Of n_res times each factor, the peak bytes of every policy of the table, and under `auto` the least of any plan. A
    policy without a plan there is left out."""
    out: dict[int, dict[str, int]] = {}
    for n_res in sorted({max(1, round(f * problem.n_res)) for f in factors}):
        table = option_table(msgspec.structs.replace(problem, n_res=n_res), device)
        chain, out[n_res] = chain_of(table), {}
        for name, policy in POLICIES.items():
            try:
                out[n_res][name] = simulate(chain, *policy_schedule(table, block_choices(table, policy(table)))).peak
            except (BadInput, NotSupported):
                continue
        out[n_res]["auto"] = least(table)
    return out
