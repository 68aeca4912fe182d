"""What sits on the host: the Viterbi pass against every path of a block, tried one by one by the simulator."""

from dataclasses import replace
from itertools import product

import msgspec
import pytest

from foldfit.cost.devices import find_device
from foldfit.errors import DoesNotFit, NotSupported
from foldfit.planner.build import chain_of, make_plan
from foldfit.planner.options import OptionTable, hostable, option_table, slice_rows, subsets, thinnest
from foldfit.planner.residency import fastest, fitting
from foldfit.planner.simulate import simulate
from foldfit.problem import Problem, Stack
from tests import small


def table_of(memory: int, link: float, stacks: tuple[Stack, ...] = (small.stack("pairformer"),), **more) -> OptionTable:
    fields = dict(n_res=17, inputs="overwritten", host_memory=2**40) | more
    return option_table(Problem(stacks=stacks, memory=memory, **fields), replace(find_device("cpu"), host_link=link))


def least(link: float, **more) -> int:
    with pytest.raises(DoesNotFit) as error:
        make_plan(table_of(1, link, **more))
    return error.value.need


def every_path(table: OptionTable) -> float:
    """The least seconds over all homes and all places of every sub-module of one block, each with its fastest option that fits."""
    best = float("inf")
    stack = table.stacks[0]
    for home in subsets(hostable(table.problem)):
        hosted = {name: stack.state[name] for name in home}
        try:
            options = fitting(table, stack, hosted)
        except DoesNotFit:
            continue
        chain = chain_of(table, hosted)
        for path in product(*(each.values() for each in options)):
            timeline = simulate(chain, {"a": [o.choice for o in path]}, ["run 0 a", "end"])
            assert timeline.peak <= table.problem.memory
            best = min(best, timeline.seconds)
    return best


@pytest.mark.parametrize("link", [1e8, 3e9, 1e11])
@pytest.mark.parametrize("above", [1.0, 1.1, 1.4, 2.0])
def test_no_path_is_faster(above: float, link: float) -> None:
    table = table_of(int(least(link) * above), link)
    plan = make_plan(table)
    assert fastest(table).seconds == pytest.approx(every_path(table), rel=1e-12) == pytest.approx(plan.promised.seconds, rel=1e-12)
    assert plan.bound and plan.bound.gap == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("link", [1e8, 1e11])
def test_more_memory_on_either_side_is_never_slower(link: float) -> None:
    stacks = (small.stack("extra_msa", 1, 24), small.stack("evoformer", 2, 12))
    need = least(link, stacks=stacks)
    seconds = [fastest(table_of(int(need * above), link, stacks)).seconds for above in (1, 1.05, 1.2, 1.5, 2, 4)]
    assert seconds == sorted(seconds, reverse=True)
    enough = int(least(link, stacks=stacks, host_memory=0) * 1.01)
    alone, hosts = fastest(table_of(enough, link, stacks, host_memory=0)), (2**15, 2**17, 2**40)
    more = [fastest(table_of(enough, link, stacks, host_memory=host)) for host in hosts]
    assert [*(r.seconds for r in more)] == sorted((r.seconds for r in more), reverse=True)
    assert more[0].seconds <= alone.seconds and not alone.hosted
    assert all(sum(r.hosted.values()) <= host for r, host in zip(more, hosts, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("device", ["cpu", "H100"])
@pytest.mark.parametrize("host", [0, 2**40])
def test_the_thinnest_slices_take_the_least(host: int, device: str, precision: str) -> None:
    for stack in (small.stack("extra_msa", 1, 24), small.stack("evoformer", 1, 12), small.stack("pairformer")):
        problem = Problem(
            stacks=(stack,), n_res=37, inputs="overwritten", host_memory=host, memory=1, precision=precision, device=device,
            device_type="cpu" if device == "cpu" else "cuda",
        )  # fmt: skip
        needs = []
        for rows in (slice_rows, thinnest):
            with pytest.raises(DoesNotFit) as error:
                fastest(option_table(problem, find_device(device), rows))
            needs.append(error.value.need)
        assert needs[0] == needs[1]


def test_exposed_seconds_are_part_of_the_promise() -> None:
    slow, fast = (make_plan(table_of(least(link), link)) for link in (1e8, 1e13))
    assert 0 < fast.promised.exposed < 0.01 * slow.promised.exposed < slow.promised.seconds
    free = table_of(2**40, 1e8)
    assert make_plan(free).promised.exposed == 0 and make_plan(free).hosted == ()


def test_a_policy_has_everything_on_the_device() -> None:
    assert make_plan(table_of(2**40, 1e10), "chunk").hosted == ()


@pytest.mark.parametrize("more", [dict(inputs="kept"), dict(axial=2, world=2), dict(launch="graph", device_type="cuda", inputs="kept")])
def test_refused(more: dict) -> None:
    problem = Problem(stacks=(small.stack("pairformer"),), n_res=9, memory=2**40, inputs="overwritten")
    with pytest.raises(NotSupported, match="host memory|overwritten inputs"):
        msgspec.structs.replace(problem, host_memory=2**40, **more)
