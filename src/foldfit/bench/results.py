"""Result files of `foldfit bench`: one row a case, with all that is needed to read it elsewhere."""

import os
from pathlib import Path
from typing import Literal

import msgspec

from foldfit.errors import BadInput, NotSupported
from foldfit.plans import write_text
from foldfit.problem import Problem

SCHEMA = 3
Status = Literal["measured", "predicted", "does not fit", "ran out of memory", "promise broken", "failed"]
NAMES = {name: (f"{name}.json", f"{name}.csv", f"{name}.md") for name in ("study", "bench")}
"""The files of an experiment."""


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One row: bytes and seconds; what was not measured, or does not fit, is 0. Of a row that does not fit `promised_peak` is
    what it needs. `activation`: alive when forward ends, beyond what was alive before it, the study's "activation memory"; not
    measured of a CUDA graph. `seconds` is the median of `repeat` runs, `spread` their interquartile range; `exposed`: those of the
    seconds in which several ranks, or copies to the host, are waited for."""

    key: str
    status: Status
    note: str = ""
    problem: Problem
    policy: str = ""
    solver: str = ""
    kernels: tuple[str, ...] = ()
    """The only ones that could be chosen; empty: all."""
    costs: str = ""
    promised_peak: int = 0
    promised_seconds: float = 0.0
    promised_exposed: float = 0.0
    promised_activation: int = 0
    gap: float = 0.0
    peak: int = 0
    activation: int = 0
    seconds: float = 0.0
    exposed: float = 0.0
    spread: float = 0.0
    repeat: int = 0


class Results(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An experiment's file. `machine`: what ran it, empty where every row is predicted."""

    schema: int = SCHEMA
    experiment: str
    scale: str = "full"
    device: str
    machine: str = ""
    versions: dict[str, str]
    date: str
    results: tuple[Result, ...] = ()

    def dumps(self) -> str:
        return msgspec.json.format(msgspec.json.encode(self), indent=1).decode() + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        write_text(path, self.dumps())

    def same_origin(self, other: "Results") -> bool:
        """Whether rows of both may stand in one file."""
        own = (self.experiment, self.scale, self.device, self.machine, self.versions)
        return own == (other.experiment, other.scale, other.device, other.machine, other.versions)

    def foretells(self, other: "Results") -> bool:
        """Whether all of it was predicted of what the other one measures."""
        same = (self.experiment, self.scale, self.device) == (other.experiment, other.scale, other.device)
        return same and not self.machine and self.versions.get("foldfit") == other.versions.get("foldfit")

    @property
    def origin(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{self.experiment}, scale {self.scale}, of {self.device} ({self.machine or 'predicted'}) by {versions}"


def read_results(path: Path) -> Results:
    """A result file, or the one in a folder. Raises BadInput for anything else, NotSupported for another schema."""
    if path.is_dir():
        inside = [path / names[0] for names in NAMES.values() if (path / names[0]).is_file()]
        if not inside:
            raise BadInput(f"{path} has no results (study.json or bench.json): make them with foldfit bench -o {path}")
        if len(inside) > 1:
            raise BadInput(f"{path} has two experiments, {' and '.join(p.name for p in inside)}: give each a folder of its own")
        path = inside[0]
    try:
        data = path.read_bytes()
        head = msgspec.json.decode(data)
        if isinstance(head, dict) and head.get("schema", SCHEMA) != SCHEMA:
            raise NotSupported(f"{path} has result schema {head['schema']!r}, this foldfit reads {SCHEMA}: run its bench again")
        return msgspec.json.decode(data, type=Results)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{path} is no result of foldfit bench: {error}") from None


def looks_like_results(path: Path) -> bool:
    """Whether it is meant as a result file, be it a good one or not."""
    try:
        return b'"experiment"' in path.read_bytes()[:4096]
    except OSError:
        return False
