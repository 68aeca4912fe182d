"""Seconds of collectives: what any model of them must do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldfit.cost.collectives import all_gather, all_reduce, all_to_all
from foldfit.cost.devices import find_device

DEVICE = find_device("H200")


@pytest.mark.parametrize("seconds", [all_to_all, all_gather, all_reduce])
@given(ranks=st.integers(2, 2048), size=st.integers(0, 2**40))
def test_more_bytes_take_longer_and_none_are_free(seconds, ranks, size):
    assert 0 < seconds(DEVICE, ranks, size) < seconds(DEVICE, ranks, 2 * size + 1)


@given(size=st.integers(2**20, 2**36))
def test_another_host_is_further_away(size):
    assert all_gather(DEVICE, 16, size) > all_gather(DEVICE, 8, size)
    assert all_to_all(DEVICE, 16, size) > all_to_all(DEVICE, 8, size)


def test_within_a_host_only_what_others_have_travels():
    size = 2**30
    assert all_gather(DEVICE, 4, size) == pytest.approx(3 / 4 * size / DEVICE.link, rel=0.05)
    assert all_reduce(DEVICE, 1, size) == 0
