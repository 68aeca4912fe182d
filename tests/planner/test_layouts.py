"""Layouts over ranks: the fewest relays, and the versions that a recorded block holds."""

from itertools import product

import pytest

from foldfit.cost.devices import find_device
from foldfit.cost.sizes import shapes_of
from foldfit.planner.layouts import axes_of, cheapest, passages, wanted
from foldfit.problem import Problem
from foldfit.stacks import stack_spec
from tests import small

STACKS = {"evoformer": 20, "extra_msa": 33, "pairformer": 0}
SLOW = dict.fromkeys((sub.name for name in STACKS for sub in stack_spec(name).sub_modules), 9.0)
COSTS = [{"m": 3.0, "e": 3.0, "s": 1.0, "z": 2.0}, {"m": 1.0, "e": 5.0, "s": 1.0, "z": 7.0}]


def cost(layouts, seconds) -> float:
    home = dict.fromkeys(layouts[0], 0)
    steps = zip([home, *layouts], [*layouts, home], strict=True)
    return sum(seconds[name] for old, new in steps for name in new if old[name] != new[name])


@pytest.mark.parametrize("seconds", COSTS)
@pytest.mark.parametrize("name", STACKS)
def test_no_other_layouts_take_less(name, seconds):
    spec = stack_spec(name)
    found = cheapest(spec, seconds, SLOW)
    for sub, layout in zip(spec.sub_modules, found, strict=True):
        assert wanted(sub).items() <= layout.items()
    names = list(spec.state)
    every = [
        [dict(zip(names, axes, strict=True)) for axes in product(*(axes_of(spec, n) for n in names)) if wanted(sub).items()
         <= dict(zip(names, axes, strict=True)).items()]
        for sub in spec.sub_modules
    ]  # fmt: skip
    least = min(cost(list(layouts), seconds) for layouts in product(*every))
    assert cost(found, seconds) == least


def test_an_evoformer_block_moves_the_msa_twice_and_the_pair_four_times():
    moves = (
        [sub["m"] for sub in cheapest(stack_spec("evoformer"), COSTS[0], SLOW)],
        [sub["z"] for sub in cheapest(stack_spec("evoformer"), COSTS[0], SLOW)],
    )
    assert moves[0] == [0, 1, 1, 1, 1, 1, 1, 1, 0]  # home beside the last one that does without it
    assert moves[1] == [0, 0, 0, 0, 0, 1, 0, 1, 1]


def test_a_relay_goes_on_beside_what_hides_it():
    """The last of them, or the one that hides the most."""
    spec = stack_spec("evoformer")
    quick = SLOW | dict.fromkeys(("triangle_attention_ending_node", "pair_transition"), 1.0)
    for computing, last in ((quick, 6), (dict.fromkeys(SLOW, 0.5) | {"pair_transition": 0.4}, 7), (dict.fromkeys(SLOW, 0.0), 9)):
        layouts = cheapest(spec, COSTS[0], computing)
        assert [sub["m"] for sub in layouts] == [0] + [1] * (last - 1) + [0] * (9 - last)


def passages_of(name: str, ranks: int, batch: int = 1):
    problem = Problem(stacks=(small.stack(name, 2, STACKS[name]),), n_res=24, memory=2**40, world=ranks, axial=ranks, batch=batch)
    spec, shapes = shapes_of(problem, problem.stacks[0])
    return spec, shapes, passages(spec, shapes, find_device("cpu"), 4, batch, 1, SLOW)


@pytest.mark.parametrize("name", STACKS)
def test_alone_a_block_grows_by_what_it_writes(name):
    spec, shapes, found = passages_of(name, 1, batch=2)
    for sub, p in zip(spec.sub_modules, found, strict=True):
        assert p.written == 2 * 4 * shapes.elements(sub.writes[0])
        assert (p.text, p.kept, p.run, p.before, p.after, p.back, p.back_after, p.seconds) == ("", 0, 0, 0, 0, 0, 0, 0)
    last = {sub.writes[0]: i for i, sub in enumerate(spec.sub_modules)}
    assert [i for i, p in enumerate(found) if p.final] == sorted(last.values())


def test_the_msa_at_home_is_one_version_more():
    spec, shapes, found = passages_of("evoformer", 2)
    m, z = (4 * shapes.own_elements(name) for name in ("m", "z"))
    assert (m, z) == (4 * 20 * 24 * 48 // 2, 4 * 24 * 24 * 32 // 2)
    assert [p.written for p in found] == [m, m, m, z, z, z, z, z, z + m]  # the outer product's record holds the other one
    assert [p.final for p in found] == [False] * 8 + [True]
    assert found[1].before == found[1].run == 2 * m  # the result and a buffer; the original goes
    assert found[-1].after == z + max(2 * m, m + 2 * z)  # beside the new version of z: m and its buffer, then z and its own
    assert (found[0].back, found[0].back_after) == (2 * m, 0)  # the gradient of m comes home before the first one's backward
