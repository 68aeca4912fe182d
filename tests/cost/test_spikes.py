"""What is to be measured once more."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from foldfit.cost.sample import Sample
from foldfit.cost.spikes import lesser, spikes

WHOLE = Sample("pair_transition", "triton", "bf16", {"z": (64, 64)}, 64, 0, forward=1e-3, backward=3e-3)


def sliced(rows: int, times: float, back: float) -> Sample:
    return msgspec.structs.replace(WHOLE, rows=rows, forward=times * WHOLE.forward, backward=back * WHOLE.backward)


def test_what_takes_far_longer_than_a_finer_one():
    odd, finer = sliced(16, 1.2, 3.0), sliced(4, 1.3, 1.4)
    samples = [WHOLE, odd, finer]
    assert spikes(samples, samples) == {odd.identity}
    other_size = msgspec.structs.replace(finer, axes={"z": (32, 32)})
    assert not spikes([WHOLE, odd, other_size], [WHOLE, odd, other_size])
    plain_run = [msgspec.structs.replace(s, backward=0.0) for s in (WHOLE, odd, finer)]
    assert not spikes(plain_run, plain_run)


def test_only_of_sizes_with_new_samples():
    """One of an earlier call that a finer one of this call shows up; not, at each call, what is that slow."""
    odd, finer = sliced(16, 1.2, 3.0), sliced(4, 1.3, 1.4)
    elsewhere = msgspec.structs.replace(finer, axes={"z": (32, 32)})
    assert spikes([WHOLE, odd, finer], [finer]) == {odd.identity}
    assert not spikes([WHOLE, odd, finer, elsewhere], [elsewhere])


@given(st.lists(st.floats(1, 1.2), min_size=2, max_size=6))
def test_nothing_where_more_slices_take_longer(factors):
    samples, times = [], 1.0
    for i, factor in enumerate(factors):
        times *= factor
        samples.append(sliced(64 >> i, times, times))
    assert not spikes(samples, samples)


def test_of_two_the_lesser_seconds():
    a, b = sliced(16, 1.2, 3.0), sliced(16, 1.4, 1.1)
    assert lesser(a, b) == lesser(b, a) == sliced(16, 1.2, 1.1)
