"""What a report says of one run: its plan, its measurement, and what the planner knows beside them. Pure data."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import log
from pathlib import Path
from typing import Annotated, Any

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
    parts: dict[str, int] = field(default_factory=dict)
    """What stays, by what it is."""
    waited: float = 0.0
    """Seconds planned before it, for a copy to the host or back."""
    exposed: float = 0.0
    """Of its own seconds planned, those of collectives."""

    @property
    def phase(self) -> str:
        """forward, recompute or backward."""
        return "backward" if self.step.startswith("backward") else "recompute" if self.again else "forward"


@dataclass(frozen=True)
class Candidate:
    """A policy or a peer beside the plan's own: bytes it needs, its seconds, and whether it fits the plan's limit."""

    policy: str
    peak: int
    seconds: float
    fits: bool = True


@dataclass(frozen=True)
class Transfer:
    """What goes on beside the computation: on which track, for which step, the seconds at which it begins and that it takes."""

    track: str
    step: str
    begin: float
    seconds: float


TO_HOST, FROM_HOST, BETWEEN_RANKS = "to the host", "from the host", "between ranks"
TRACKS = (TO_HOST, FROM_HOST, BETWEEN_RANKS)


@dataclass(frozen=True)
class Run:
    name: str
    plan: Plan
    measured: dict[str, Any]
    peaks: list[Peak] = field(default_factory=list)
    frontier: list[tuple[int, float, float]] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    needs: dict[int, dict[str, int]] = field(default_factory=dict)
    """Peak bytes of each policy by n_res; `auto`: the least of any plan."""
    cards: dict[str, int] = field(default_factory=dict)
    """Bytes that cards leave to a run, by their names."""
    copies: list[Transfer] = field(default_factory=list)
    """Planned, of block inputs."""
    peers: list[Candidate] = field(default_factory=list)
    """Other implementations, measured on the same problem and card."""

    @property
    def ratio(self) -> float:
        return self.measured["peak_bytes"] / self.plan.promised.peak_bytes

    @property
    def at_peak(self) -> Peak | None:
        return max(self.peaks, key=lambda p: p.promised, default=None)

    def by_sub_module(self) -> list[tuple[str, int, int, float, float]]:
        """(sub-module, largest promised peak, largest measured peak, seconds planned, seconds taken) over all steps."""
        out: dict[str, list] = {}
        for p in self.peaks:
            row = out.setdefault(p.sub_module, [0, 0, 0.0, 0.0])
            row[:] = max(row[0], p.promised), max(row[1], p.measured), row[2] + p.seconds, row[3] + p.took
        return [(name, *row) for name, row in out.items()]

    def by_step(self) -> list[tuple[str, str, float, float, float, int, int]]:
        """(step, phase, seconds at which it begins, its seconds planned, taken, promised peak, measured peak)."""
        out, begin = [], 0.0
        for (step, phase, _), group in groupby(self.peaks, key=lambda p: (p.step, p.phase, p.choice)):
            members = list(group)
            seconds = sum(p.seconds for p in members)
            begin += sum(p.waited for p in members)
            row = sum(p.took for p in members), max(p.promised for p in members), max(p.measured for p in members)
            out.append((step, phase, begin, seconds, *row))
            begin += seconds
        return out

    def transfers(self) -> list[Transfer]:
        """Planned: copies to the host and back, and collectives, each step's as one at its beginning."""
        out = list(self.copies)
        begins = iter(self.by_step())
        for (step, *_), group in groupby(self.peaks, key=lambda p: (p.step, p.phase, p.choice)):
            exposed = sum(p.exposed for p in group)
            begin = next(begins)[2]
            out += [Transfer(BETWEEN_RANKS, step, begin, exposed)] if exposed else []
        return out

    def by_track(self) -> list[tuple[str, int, float]]:
        """(track, how many, their seconds) of each that is used."""
        every = self.transfers()
        found = [(track, [t.seconds for t in every if t.track == track]) for track in TRACKS]
        return [(track, len(seconds), sum(seconds)) for track, seconds in found if seconds]

    def longest(self, limit: int) -> dict[str, str]:
        """By policy, about the longest n_res whose peak is within `limit` bytes, between those that were planned."""
        out, lengths = {}, list(self.needs)
        for policy in self.needs[lengths[-1]] if lengths else ():
            points = [(n, self.needs[n][policy]) for n in lengths if policy in self.needs[n]]
            fitting = [i for i, (_, need) in enumerate(points) if need <= limit]
            if not fitting:
                out[policy] = f"< {points[0][0]}"
            elif fitting[-1] + 1 == len(points):
                out[policy] = f"> {points[-1][0]}"
            else:
                (a, low), (b, high) = points[fitting[-1]], points[fitting[-1] + 1]
                out[policy] = f"{a * (b / a) ** (log(limit / low) / log(high / low)):.0f}"
        return out


@dataclass(frozen=True)
class Sheet:
    """Results of a bench: a table, and what changed against another."""

    name: str
    origin: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    changes: str = ""
    series: "Sequence[Series]" = ()


@dataclass(frozen=True)
class Scaled:
    """Seconds of a run on so many ranks, and those of them in which it waits for collectives: promised, and as it took (0: not run; of
    several ranks' waiting, not timed, as inside a CUDA graph)."""

    ranks: int
    promised: float
    promised_exposed: float
    took: float = 0.0
    exposed: float = 0.0


@dataclass(frozen=True)
class Series:
    """One problem under one policy, on several numbers of ranks."""

    problem: str
    policy: str
    points: list[Scaled]


Bytes = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Step(msgspec.Struct):
    step: str
    sub_module: str
    peak_bytes: Bytes
    seconds: Seconds = 0.0


class Measured(msgspec.Struct):
    """What a report reads of a measured.json."""

    peak_bytes: Annotated[int, msgspec.Meta(gt=0)]
    seconds: Annotated[float, msgspec.Meta(gt=0)]
    promised_peak_bytes: Bytes
    device: str
    steps: list[Step]
    exposed: Seconds = 0.0


def read_measured(path: "str | os.PathLike[str]") -> dict[str, Any]:
    """A measured.json. Raises BadInput for anything else."""
    try:
        found = msgspec.json.decode(Path(path).read_bytes())
        msgspec.convert(found, Measured)
    except OSError as error:
        raise BadInput(f"cannot read {os.fspath(path)}: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{os.fspath(path)} is no measurement of foldfit: {error}") from None
    return found


def join(
    moments: Sequence[Any], steps: list[dict[str, Any]], parts: Sequence[dict[str, int]] = (), exposed: Sequence[float] = ()
) -> list[Peak]:
    """The planner's moments, with what is alive at each and its collectives, beside the measured steps. What lies between
    sub-modules (a copy of the state, of an input on the host) is part of the one that follows it; a run without measured steps
    (a captured one) has none."""
    out: list[Peak] = []
    copied, waited, again = 0, 0.0, False
    waits = iter(exposed)
    step = ""
    ran: set[str] = set()
    for i, moment in enumerate(moments):
        if moment.between:
            copied, waited = max(copied, moment.peak), waited + moment.seconds
            continue
        verb, block, *choice = moment.step.split()
        if moment.step != step:
            step, again = moment.step, block in ran
            ran.add(block)
        out.append(Peak(
            f"{verb} {block}", moment.sub_module, moment.alive, max(copied, moment.peak), 0, moment.seconds,
            choice=choice[0] if choice else "", again=again, parts=parts[i] if parts else {}, waited=waited,
            exposed=next(waits, 0.0),
        ))  # fmt: skip
        copied, waited = 0, 0.0
    names = [(s.get("step"), s.get("sub_module")) for s in steps]
    if names != [(p.step, p.sub_module) for p in out]:
        return out
    return [replace(p, measured=int(s["peak_bytes"]), took=float(s.get("seconds", 0.0))) for p, s in zip(out, steps, strict=True)]
