"""Reads an alignment in a3m: upper case and `-` are columns of the query, lower case an insertion before the next column."""

import gzip
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foldfit.errors import BadInput

RESIDUES = "ARNDCQEGHILKMFPSTWYVX-"
"""AF2's order; X is unknown, - a gap."""
AS_ANOTHER = {"B": "D", "J": "X", "O": "X", "U": "C", "Z": "E"}
"""Letters that AF2 reads as another residue."""

COLUMN = np.full(256, -1, np.int8)
"""Byte -> residue; -1 for what no column can have."""
for _i, _letter in enumerate(RESIDUES):
    COLUMN[ord(_letter)] = _i
for _letter, _other in AS_ANOTHER.items():
    COLUMN[ord(_letter)] = RESIDUES.index(_other)


@dataclass(frozen=True)
class Alignment:
    """rows [n_rows, n_res] int8 residues in AF2's order, deletions [n_rows, n_res] int32: insertions before each column.

    The first row is the query; rows that repeat another one are left out, as in AF2.
    """

    names: tuple[str, ...]
    rows: np.ndarray
    deletions: np.ndarray


def read_a3m(path: str | os.PathLike[str]) -> Alignment:
    """Reads .a3m or .a3m.gz. Raises BadInput with file, line, what was expected and what was found."""
    return parse_a3m(read_bytes(Path(path)), os.fspath(path))


def read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        text = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        return text.removeprefix(b"\xef\xbb\xbf")  # as Windows marks UTF-8
    except OSError as error:
        raise BadInput(f"cannot read the alignment {path}: {error.strerror or error}") from None
    except (EOFError, zlib.error) as error:
        raise BadInput(f"{path}: not a whole gzip file ({error}): fetch it again") from None


def parse_a3m(data: bytes, source: str = "the alignment") -> Alignment:
    """Of a file's bytes. Raises BadInput."""
    names: list[str] = []
    lines_of: list[int] = []
    bodies: list[bytearray] = []
    for number, line in enumerate(data.splitlines(), 1):
        line = line.strip()
        if line.startswith(b">"):
            names.append(line[1:].decode("utf-8", "replace"))
            lines_of.append(number)
            bodies.append(bytearray())
        elif line and not line.startswith(b"#"):
            if not bodies:
                raise BadInput(f"{source}, line {number}: expected a header that starts with >, got {shown(line)}; is this an a3m file?")
            bodies[-1] += line
    if not bodies:
        raise BadInput(f"{source}: no sequences in it: expected an a3m alignment with the query first")
    rows: list[np.ndarray] = []
    deletions: list[np.ndarray] = []
    seen: set[bytes] = set()
    kept: list[str] = []
    for name, number, body in zip(names, lines_of, bodies, strict=True):
        row, deleted = parse_row(bytes(body), source, number)
        if rows and len(row) != len(rows[0]):
            raise BadInput(
                f"{source}, line {number}: sequence {shown(name.encode())} has {len(row)} columns, the query has {len(rows[0])}: "
                "expected upper case and - for the query's columns, lower case for insertions"
            )
        if not rows and (not len(row) or (row == RESIDUES.index("-")).any() or deleted.any()):
            raise BadInput(f"{source}, line {number}: the query has gaps, insertions or no residues: expected it first, in upper case")
        if row.tobytes() not in seen:
            seen.add(row.tobytes())
            rows.append(row)
            deletions.append(deleted)
            kept.append(name)
    return Alignment(tuple(kept), np.stack(rows), np.stack(deletions))


def parse_row(body: bytes, source: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """(residues, insertions before each column) of one sequence."""
    letters = np.frombuffer(body, np.uint8)
    insertion = (letters >= ord("a")) & (letters <= ord("z"))
    columns = ~insertion & (letters != ord("."))
    row = COLUMN[letters[columns]]
    if (row < 0).any():
        position = int(np.flatnonzero(columns)[int(np.argmax(row < 0))])
        raise BadInput(
            f"{source}, line {number}: unknown residue letter {shown(body[position : position + 1])} at position {position + 1} of the "
            f"sequence: expected one of {RESIDUES}{''.join(AS_ANOTHER)} or lower case for an insertion"
        )
    before = np.concatenate([[0], np.cumsum(insertion)[columns]])
    return row, np.diff(before).astype(np.int32)


def shown(text: bytes) -> str:
    """At most 30 characters, printable."""
    return repr(text[:30].decode("utf-8", "replace") + ("..." if len(text) > 30 else ""))
