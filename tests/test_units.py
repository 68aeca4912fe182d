"""Units: what people type, and what they get wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldfit.errors import BadInput
from foldfit.units import UNITS, format_bytes, format_seconds, parse_bytes, parse_memory


@pytest.mark.parametrize(
    ("text", "size"),
    [("16GiB", 2**34), ("16GB", 16 * 10**9), ("1.5GiB", 3 * 2**29), ("512MiB", 2**29), ("7B", 7), (" 2TB ", 2 * 10**12), ("0.1kB", 100)],
)
def test_amounts(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["16Gi", "16", "16 GiB", "-1GiB", "0GiB", "", "GiB", "nanGiB", "infGB", "1e3GB", "16gib", "1..5GB", "16GiBs", "80%%"]
)
def test_what_is_not_an_amount_is_named_in_one_line(text):
    with pytest.raises(BadInput) as error:
        parse_bytes(text)
    assert repr(text) in str(error.value) and "\n" not in str(error.value)


def test_a_wrong_unit_is_answered_with_the_right_one():
    with pytest.raises(BadInput, match="perhaps 16GiB"):
        parse_bytes("16Gi")


@pytest.mark.parametrize(("text", "size"), [("auto", 90), ("50%", 50), ("100%", 100), ("0.5%", 0), ("64B", 64)])
def test_limits(text, size):
    assert parse_memory(text, 100, 10) == size


@pytest.mark.parametrize("text", ["0%", "101%", "-5%", "%", "a%", "nan%"])
def test_parts_that_are_none(text):
    with pytest.raises(BadInput):
        parse_memory(text, 100)


@given(st.text(max_size=12))
def test_any_text_is_an_amount_or_bad_input(text):
    try:
        assert parse_memory(text, 2**40) >= 0
    except BadInput as error:
        assert "\n" not in str(error)


@given(st.integers(1, 2**60))
def test_what_is_printed_to_be_typed_is_enough(size):
    assert parse_bytes(format_bytes(size, up=True)) >= size


@given(st.integers(1, 10**6), st.sampled_from(list(UNITS)))
def test_round_trip(number, unit):
    assert parse_bytes(f"{number}{unit}") == number * UNITS[unit]


def test_seconds():
    assert [format_seconds(s) for s in (0.9996, 0.9994, 0.0009996, 0.00099949)] == ["1.00 s", "999 ms", "1 ms", "999 us"]
    assert [format_seconds(s) for s in (1.234, 0.01234, 1.5e-6, 340.0, float("inf"))] == ["1.23 s", "12.3 ms", "1.5 us", "340 s", "never"]
