"""A run as a trace for Chrome or Perfetto: what was planned and what was measured, as two processes."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import msgspec

from foldfit.report.run import Run

PLANNED, MEASURED = 1, 2
COMPUTE = 1
"""The thread of the computation; copies and collectives have those after it."""
MICRO = 1e6
MIB = 2**20


def trace(run: Run) -> str:
    """The JSON text: a slice for every step with its sub-modules inside, and counters of memory. The measured process has
    slices where the steps were timed, and one for the whole run where they were not."""
    named = [
        (PLANNED, f"planned, {run.plan.costs} costs", [p.seconds for p in run.peaks]),
        (MEASURED, f"measured on {run.measured.get('device', 'this device')}", [p.took for p in run.peaks]),
    ]
    events: list[dict[str, Any]] = []
    for pid, name, seconds in named:
        events += [meta(pid, "process_name", name), meta(pid, "thread_name", "compute")]
        if any(seconds):
            events += slices(run, pid, seconds)
        elif pid == MEASURED:
            events.append(piece(pid, "the whole run", "run", 0.0, run.measured["seconds"], {}))
    for tid, (track, *_) in enumerate(run.by_track(), COMPUTE + 1):
        events.append(meta(PLANNED, "thread_name", track, tid))
        events += [piece(PLANNED, t.step, track, t.begin, t.seconds, {}, tid) for t in run.transfers() if t.track == track]
    about = {"plan": run.plan.digest, "promised_peak_bytes": run.plan.promised.peak_bytes, "limit_bytes": run.plan.problem.memory}
    return msgspec.json.encode({"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}).decode() + "\n"


def slices(run: Run, pid: int, seconds: list[float]) -> Iterator[dict[str, Any]]:
    """In order, one after another: a step, its sub-modules, and the bytes while each ran."""
    begin = 0.0
    pairs = list(zip(run.peaks, seconds, strict=True))
    for step, group in groupby(pairs, key=lambda pair: pair[0].step):
        members = list(group)
        begin += sum(p.waited for p, _ in members) if pid == PLANNED else 0.0
        kind = members[0][0].phase
        yield piece(pid, step, kind, begin, sum(s for _, s in members), {"choice": members[0][0].choice})
        for p, s in members:
            yield piece(
                pid, p.sub_module, kind, begin, s, {"stays_bytes": p.alive, "promised_bytes": p.promised, "measured_bytes": p.measured}
            )
            if pid == PLANNED:
                yield counter(pid, begin, {"stays, MiB": p.alive / MIB, "promised peak, MiB": p.promised / MIB})
            elif p.measured:
                yield counter(pid, begin, {"measured peak, MiB": p.measured / MIB})
            begin += s


def piece(pid: int, name: str, kind: str, begin: float, seconds: float, args: dict[str, Any], tid: int = COMPUTE) -> dict[str, Any]:
    return {"ph": "X", "pid": pid, "tid": tid, "name": name, "cat": kind, "ts": MICRO * begin, "dur": MICRO * seconds, "args": args}


def counter(pid: int, begin: float, values: dict[str, float]) -> dict[str, Any]:
    return {"ph": "C", "pid": pid, "tid": 1, "name": "memory", "ts": MICRO * begin, "args": values}


def meta(pid: int, name: str, value: str, tid: int = COMPUTE) -> dict[str, Any]:
    return {"ph": "M", "pid": pid, "tid": tid, "name": name, "args": {"name": value}}
