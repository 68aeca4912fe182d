"""What a report says of one run: its plan, its measurement, and what the planner knows beside them. Pure data."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from foldfit.errors import BadInput
from foldfit.plans import Plan


@dataclass(frozen=True)
class Peak:
    """One sub-module of one step: bytes that stay, its promised peak, its measured peak (0: not measured), its seconds."""

    step: str
    sub_module: str
    alive: int
    promised: int
    measured: int
    seconds: float


@dataclass(frozen=True)
class Candidate:
    """A policy beside the plan's own: bytes it needs, seconds where it fits."""

    policy: str
    peak: int
    seconds: float | None


@dataclass(frozen=True)
class Run:
    name: str
    plan: Plan
    measured: dict[str, Any]
    peaks: list[Peak] = field(default_factory=list)
    frontier: list[tuple[int, float, float]] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return self.measured["peak_bytes"] / self.plan.promised.peak_bytes

    def by_sub_module(self) -> list[tuple[str, int, int, float]]:
        """(sub-module, largest promised peak, largest measured peak, seconds) over all steps."""
        out: dict[str, list] = {}
        for p in self.peaks:
            row = out.setdefault(p.sub_module, [0, 0, 0.0])
            row[0], row[1], row[2] = max(row[0], p.promised), max(row[1], p.measured), row[2] + p.seconds
        return [(name, *row) for name, row in out.items()]


MEASURED = {"peak_bytes": int, "seconds": float, "promised_peak_bytes": int, "steps": list}


def read_measured(path: "str | os.PathLike[str]") -> dict[str, Any]:
    """A measured.json. Raises BadInput for anything else."""
    try:
        found = msgspec.json.decode(Path(path).read_bytes())
    except OSError as error:
        raise BadInput(f"cannot read {os.fspath(path)}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise BadInput(f"{os.fspath(path)} is no measurement of foldfit: {error}") from None
    wrong = [k for k, kind in MEASURED.items() if not isinstance(found, dict) or not isinstance(found.get(k), kind)]
    if wrong:
        raise BadInput(f"{os.fspath(path)} is no measurement of foldfit: it has no {', '.join(wrong)}")
    return found


def join(moments: Sequence[Any], steps: list[dict[str, Any]]) -> list[Peak]:
    """The planner's moments beside the measured steps. What lies between sub-modules (a copy of the state, of an input on the
    host) is part of the one that follows it; a run without measured steps (a captured one) has none."""
    out: list[Peak] = []
    copied = 0
    for moment in moments:
        if moment.between:
            copied = max(copied, moment.peak)
            continue
        out.append(Peak(" ".join(moment.step.split()[:2]), moment.sub_module, moment.alive, max(copied, moment.peak), 0, moment.seconds))
        copied = 0
    names = [(s.get("step"), s.get("sub_module")) for s in steps]
    if names != [(p.step, p.sub_module) for p in out]:
        return out
    return [Peak(p.step, p.sub_module, p.alive, p.promised, int(s["peak_bytes"]), p.seconds) for p, s in zip(out, steps, strict=True)]
