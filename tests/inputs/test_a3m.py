"""The a3m reader: what it reads, and how it refuses."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldfit.errors import BadInput
from foldfit.inputs.a3m import RESIDUES, parse_a3m, read_a3m

EXAMPLE = Path(__file__).parents[2] / "examples" / "6kwc.a3m"


def test_residues_and_deletions():
    a = parse_a3m(b">query\nACD\n>one two\nA-Dxy\n>three\nabAcC-\n")
    assert a.names == ("query", "one two", "three")
    assert ["".join(RESIDUES[i] for i in row) for row in a.rows] == ["ACD", "A-D", "AC-"]
    assert a.deletions.tolist() == [[0, 0, 0], [0, 0, 0], [2, 1, 0]]  # insertions after the last column count nowhere


def test_letters_that_are_read_as_others_and_rows_that_repeat():
    a = parse_a3m(b">q\nARND\n>b\nBJOU\n>again\nARND\n>z\nZX--\n")
    assert ["".join(RESIDUES[i] for i in row) for row in a.rows] == ["ARND", "DXXC", "EX--"]


def test_sequences_over_several_lines_comments_and_dos_endings():
    a = parse_a3m(b"#A3M#\r\n>q\r\nAC\r\nDE\r\n\r\n>r\r\nA-\r\n-E\r\n")
    assert a.rows.shape == (2, 4)


def test_the_example_is_read(tmp_path):
    a = read_a3m(EXAMPLE)
    assert a.rows.shape == (1428, 191) and a.rows.dtype == np.int8
    marked = tmp_path / "of_windows.a3m"
    marked.write_bytes("\ufeff".encode() + EXAMPLE.read_bytes())
    assert np.array_equal(read_a3m(marked).rows, a.rows)
    packed = tmp_path / "6kwc.a3m.gz"
    packed.write_bytes(gzip.compress(EXAMPLE.read_bytes()))
    assert np.array_equal(read_a3m(packed).rows, a.rows)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no sequences"),
        (b"\n\n", "no sequences"),
        (b"ACD\n", "line 1: expected a header"),
        (b">q\nACD\n>r\nAC\n", "line 3: sequence 'r' has 2 columns, the query has 3"),
        (b">q\nA1D\n", "line 1: unknown residue letter '1' at position 2"),
        (b">q\nACD\n>r\nA*D\n", "line 3: unknown residue letter '\\*' at position 2"),
        (b">q\nA-D\n", "query has gaps"),
        (b">q\nAcD\n", "query has gaps, insertions"),
        (b">q\n>r\nA\n", "query has gaps, insertions or no residues"),
        (bytes(range(256)), "expected a header"),
    ],
)
def test_what_is_broken_is_named_in_one_line(data, words):
    with pytest.raises(BadInput, match=words) as error:
        parse_a3m(data, "x.a3m")
    assert "\n" not in str(error.value) and str(error.value).startswith("x.a3m")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(BadInput, match="No such file"):
        read_a3m(tmp_path / "none.a3m")
    with pytest.raises(BadInput, match="Is a directory"):
        read_a3m(tmp_path)
    half = tmp_path / "half.a3m.gz"
    half.write_bytes(gzip.compress(EXAMPLE.read_bytes())[:5000])
    with pytest.raises(BadInput, match="not a whole gzip"):
        read_a3m(half)


LINES = st.lists(st.one_of(st.binary(max_size=20), st.from_regex(rb">?[A-Za-z.*-]{0,12}", fullmatch=True)), max_size=8)


@given(LINES)
def test_any_bytes_are_an_alignment_or_bad_input(lines):
    try:
        a = parse_a3m(b"\n".join(lines))
    except BadInput as error:
        assert "\n" not in str(error)
    else:
        assert a.rows.shape == a.deletions.shape and len(a.names) == len(a.rows) and (a.rows >= 0).all() and (a.rows < 22).all()
