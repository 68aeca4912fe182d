"""What each policy needs for longer and shorter proteins: no limit, no seconds, so that it is quick."""

from collections.abc import Iterable
from math import log

import msgspec

from foldfit.cost.devices import Device
from foldfit.errors import BadInput, DoesNotFit, NotSupported
from foldfit.planner.build import chain_of, make_plan, policy_schedule
from foldfit.planner.hopeless import staying
from foldfit.planner.options import OptionTable, option_table, slice_rows, thinnest
from foldfit.planner.policies import POLICIES, ask
from foldfit.planner.simulate import simulate
from foldfit.problem import Problem

FACTORS = (1 / 4, 1 / 2, 1 / 2**0.5, 1, 2**0.5, 2, 4)


def least(table: OptionTable) -> int:
    """Bytes of the thriftiest plan found."""
    try:
        make_plan(table.within(1))
    except DoesNotFit as error:
        return error.need
    raise AssertionError("nothing fits into one byte")


def least_of(policy: str, table: OptionTable) -> int:
    """Bytes that a policy needs; `auto`, its thriftiest plan."""
    if policy == "auto":
        return least(table)
    return simulate(chain_of(table), *policy_schedule(table, ask(policy, table))).peak


def longest_n_res(
    problem: Problem, device: Device, policy: str = "auto", below: int | None = None, known: dict[int, int] | None = None
) -> int:
    """The largest n_res that a plan of this policy fits with, or up to 0.2 % less; 0 where none does. `known`: bytes needed by n_res,
    kept for searches under other limits; not for a policy that looks at the limit."""
    known = {} if known is None else known

    host = problem.host_memory if problem.mode == "infer" else 0  # a training step that fits, fits without
    rows = thinnest if policy == "auto" and problem.mode == "infer" else slice_rows

    def need(n_res: int) -> int:
        """Or less, where that is beyond the limit already."""
        if n_res not in known:
            here = msgspec.structs.replace(problem, n_res=n_res, host_memory=host)
            if (stays := sum(staying(here).values())) > problem.memory:
                return stays
            known[n_res] = least_of(policy, option_table(here, device, rows))
        return known[n_res]

    low, high = 0, below or 1
    if below is None:
        while need(high) <= problem.memory:
            low, high = high, 2 * high
    steps, side = 1, 0
    while high - low > (near := max(1, low // 512)):
        middle = (low + high) // 2
        if low and steps % 3:  # need grows like a power of n_res: two times of three aim just beyond where that meets the limit
            share = log(problem.memory / need(low)) / log(max(need(high), need(low) + 1) / need(low))
            middle = min(max(int(low * (high / low) ** share) + side * near // 2, low + 1), high - 1)
        low, high, side = (middle, high, 1) if need(middle) <= problem.memory else (low, middle, -1)
        steps += 1
    return low


def needs(problem: Problem, device: Device, factors: Iterable[float] = FACTORS) -> dict[int, dict[str, int]]:
    """Of n_res times each factor, the peak bytes of every policy of the table, and under `auto` the least of any plan. A
    policy without a plan there is left out."""
    out: dict[int, dict[str, int]] = {}
    for n_res in sorted({max(1, round(f * problem.n_res)) for f in factors}):
        table = option_table(msgspec.structs.replace(problem, n_res=n_res), device)
        out[n_res] = {}
        for name in POLICIES:
            try:
                out[n_res][name] = least_of(name, table)
            except (BadInput, NotSupported):
                continue
        out[n_res]["auto"] = least(table)
    return out
