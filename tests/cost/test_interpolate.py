"""Interpolation between samples: exact where measured, and errors as large as they are."""

from dataclasses import replace

import pytest

from foldfit.cost.accuracy import accuracy, overall
from foldfit.cost.devices import Device, find_device
from foldfit.cost.interpolate import Corrections
from foldfit.cost.memory import Setting
from foldfit.cost.sample import Sample, name_of, sub_channels
from foldfit.cost.seconds import Seconds, sub_module_seconds
from foldfit.cost.sizes import Shapes
from foldfit.plans import Choice
from foldfit.stacks import stack_spec

CARD = find_device("H200")
SUB = next(s for s in stack_spec("evoformer").sub_modules if s.name == "pair_transition")


def modelled(n_res: int, rows: int, device: Device = CARD) -> Seconds:
    setting = Setting(Shapes({"z": (n_res, n_res)}, sub_channels(SUB)), 2)
    return sub_module_seconds(SUB, SUB.kernels["reference"]["cuda"], Choice("reference", rows), setting, device, "bf16")


def sample(n_res: int, part: int, factor: float = 2.0, **fields: float) -> Sample:
    """What a card would take that is so many times slower than the model."""
    rows = n_res // part
    seconds = dict(zip(Seconds._fields, (factor * x for x in modelled(n_res, rows)), strict=True)) | fields
    return Sample(name_of(SUB), "reference", "bf16", {"z": (n_res, n_res)}, rows, 0, **seconds)


def factors(samples: list[Sample], n_res: int, rows: int) -> Seconds:
    """By which an option is slower than the table's device is by the model."""
    found = Corrections(samples).seen(SUB, Choice("reference", rows), {"z": (n_res, n_res)}, "bf16", CARD)
    assert found is not None
    (ahead, behind), factors = found
    forward, backward, plain = modelled(n_res, rows, ahead), modelled(n_res, rows, behind), modelled(n_res, rows)
    taken = Seconds(forward.forward, backward.backward, forward.host_forward, backward.host_backward).scaled(factors)
    return Seconds(*(a / b for a, b in zip(taken, plain, strict=True)))


def test_what_was_measured_is_exact_and_what_lies_between_is_between():
    samples = [sample(256, 1, 2.0), sample(256, 4, 3.0), sample(512, 1, 2.5)]
    assert factors(samples, 256, 64) == pytest.approx(Seconds(3, 3, 3, 3))
    assert all(2 < f < 3 for f in factors(samples, 300, 150))


def test_bf16_speaks_for_fp16_where_it_was_never_measured():
    found = Corrections([sample(256, 1, 2.0), sample(256, 4, 3.0)])
    asked = [found.seen(SUB, Choice("reference", 64), {"z": (256, 256)}, precision, CARD) for precision in ("fp16", "bf16", "fp32")]
    assert asked[0] == asked[1] and asked[2] is None
    assert found.error(SUB, Choice("reference", 64), {"z": (256, 256)}, "fp16", CARD) is None
    assert not found.knows(SUB, "reference", "fp16", "graph", CARD)


def test_a_kernel_that_finds_one_resource_slow_is_predicted_at_sizes_where_another_counts():
    slow = replace(CARD, gap_seconds=10 * CARD.gap_seconds)
    samples = [
        Sample(name_of(SUB), "reference", "bf16", {"z": (n, n)}, n // part, 0, *modelled(n, n // part, slow))
        for n in (128, 256) for part in (1, 8)
    ]  # fmt: skip
    nearest = min(s.forward / modelled(s.axes["z"][0], s.rows).forward for s in samples)
    found, expected = factors(samples, 1024, 1024).forward, modelled(1024, 1024, slow).forward / modelled(1024, 1024).forward
    assert abs(found - expected) < abs(nearest - expected) / 3


def test_a_plain_run_says_nothing_of_backward():
    only_forward = sample(256, 1, 2.0, backward=0.0, host_backward=0.0)
    assert factors([only_forward, sample(512, 1, 3.0)], 256, 256) == pytest.approx(Seconds(2, 3, 2, 3), rel=0.05)
    assert factors([only_forward], 256, 256) == pytest.approx(Seconds(2, 2, 2, 2), rel=0.05)


def test_errors_are_those_of_samples_left_out():
    even = [sample(n, part) for n in (256, 384, 512) for part in (1, 4)]
    (row,) = accuracy(even, CARD)
    assert row.samples == 6 and row.sizes == 3 and row.other_slices == pytest.approx((0, 0), abs=0.01)
    assert row.other_sizes == pytest.approx((0, 0), abs=0.01)
    odd = [*even[:-1], sample(512, 4, 4.0)]  # twice as slow as the others say
    (row,) = accuracy(odd, CARD)
    assert row.other_sizes is not None and row.other_sizes[1] == pytest.approx(0.5, abs=0.1)
    assert "at other sizes (at most" in overall([row])
    assert "nothing says" in overall(accuracy(even[:1], CARD))


def test_kernels_launched_one_by_one_take_the_longer_of_host_and_device():
    s = Seconds(1.0, 2.0, 1.5, 0.5)
    assert s.by("graph") == (1.0, 2.0) and s.by("eager") == (1.5, 2.0)
    thin, whole = modelled(256, 4), modelled(256, 256)
    assert thin.host_forward > whole.host_forward and thin.by("eager")[0] == thin.host_forward
    slow = replace(CARD, launch_seconds=1e-9)
    setting = Setting(Shapes({"z": (256, 256)}, sub_channels(SUB)), 2)
    fast_host = sub_module_seconds(SUB, SUB.kernels["reference"]["cuda"], Choice("reference", 4), setting, slow, "bf16")
    assert fast_host.by("eager") == fast_host.by("graph")


def test_recomputing_runs_forward_again():
    setting = Setting(Shapes({"z": (256, 256)}, sub_channels(SUB)), 2)
    again = sub_module_seconds(SUB, SUB.kernels["reference"]["cuda"], Choice("reference", 64, 0, True), setting, CARD, "bf16")
    kept = modelled(256, 64)
    assert again.backward == pytest.approx(kept.backward + kept.forward)
    assert again.host_backward == pytest.approx(kept.host_backward + kept.host_forward)
