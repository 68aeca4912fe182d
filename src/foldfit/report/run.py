"""What a report says of one run: its plan, its measurement, and what the planner knows beside them. Pure data."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from foldfit.errors import BadInput
from foldfit.plans import Plan


@dataclass(frozen=True)
class Peak:
    """One sub-module of one step: bytes that stay, its promised peak, its measured peak (0: not measured), its seconds as planned
    and as it took (0: not timed); the name of its block's choice, and whether the block had run before."""

    step: str
    sub_module: str
    alive: int
    promised: int
    measured: int
    seconds: float
    took: float = 0.0
    choice: str = ""
    again: bool = False

    @property
    def phase(self) -> str:
        """forward, recompute or backward."""
        return "backward" if self.step.startswith("backward") else "recompute" if self.again else "forward"


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
    """The planner's moments beside the measured steps. A copy of the state is part of the sub-module that follows it; a run
    without measured steps (a captured one) has none."""
    out: list[Peak] = []
    copied, again = 0, False
    step = ""
    ran: set[str] = set()
    for moment in moments:
        if moment.sub_module == "copy of the state":
            copied = moment.peak
            continue
        verb, block, *choice = moment.step.split()
        if moment.step != step:
            step, again = moment.step, block in ran
            ran.add(block)
        out.append(Peak(
            f"{verb} {block}", moment.sub_module, moment.alive, max(copied, moment.peak), 0, moment.seconds,
            choice=choice[0] if choice else "", again=again,
        ))  # fmt: skip
        copied = 0
    names = [(s.get("step"), s.get("sub_module")) for s in steps]
    if names != [(p.step, p.sub_module) for p in out]:
        return out
    return [replace(p, measured=int(s["peak_bytes"]), took=float(s.get("seconds", 0.0))) for p, s in zip(out, steps, strict=True)]
