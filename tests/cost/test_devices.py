"""The device table."""

import pytest

from foldfit.cost.devices import DEVICES, find_device
from foldfit.errors import BadInput, NotSupported

EXPECTED = "V100-16GB V100-32GB A100-40GB A100-80GB L4 L40S H100 H200 B200 MI300X cpu".split() + ["RTX 3090", "RTX 4090", "RTX 5090"]


def test_the_cards_people_have_are_there():
    assert set(EXPECTED) <= set(DEVICES)


@pytest.mark.parametrize("device", DEVICES.values(), ids=lambda d: d.name)
def test_every_number_is_plausible_and_has_a_source(device):
    assert device.source and device.memory > device.reserved >= 0
    assert 1e9 < device.bandwidth < 2e13 and 1e-7 < device.launch_seconds < 1e-4 and device.host_link > 1e9
    assert all(1e9 < peak < 1e16 for peak in device.peaks.values())
    assert device.peak("fp16") > 0 and device.peak("fp32") > 0


@pytest.mark.parametrize("name", ["h200", "H-200", " rtx4090", "RTX 4090", "a100", "A100_80gb"])
def test_names_are_found_however_they_are_typed(name):
    assert find_device(name).name in DEVICES


def test_a_wrong_name_is_answered_with_close_ones():
    with pytest.raises(BadInput, match="did you mean .*H100|H200"):
        find_device("H1000")
    with pytest.raises(BadInput, match="expected one of"):
        find_device("abacus")


def test_a_precision_that_the_device_lacks_is_an_error():
    with pytest.raises(NotSupported, match="V100-16GB has no bf16"):
        find_device("V100-16GB").peak("bf16")
