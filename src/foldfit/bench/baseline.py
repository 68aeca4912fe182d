"""Two result files side by side: what changed beyond noise."""

from dataclasses import dataclass
from math import sqrt

from foldfit.bench.results import Result, Results
from foldfit.errors import BadInput
from foldfit.units import format_bytes, format_seconds

MEDIAN_ERROR, SIGMAS, FLOOR = 0.93, 3, 0.05
"""The standard error of a median is 0.93 of the interquartile range by the square root of the runs, for normal noise. Two medians
differ beyond noise when they are more than three errors and the sum of both ranges apart, and 5 %: a machine drifts by some."""
FEWEST = 3
"""Timed runs below which a spread says nothing."""


@dataclass(frozen=True)
class Change:
    key: str
    what: str
    before: str
    after: str
    percent: float | None = None

    @property
    def line(self) -> str:
        return f"{self.key}: {self.what} {self.before} -> {self.after}" + ("" if self.percent is None else f" ({self.percent:+.1f} %)")


@dataclass(frozen=True)
class Comparison:
    """`untold`: rows whose seconds were timed too few times to say."""

    rows: int
    changes: tuple[Change, ...]
    untold: int

    def __str__(self) -> str:
        head = f"{self.rows} rows in both files, {len(self.changes)} changes beyond noise"
        if self.untold:
            head += f"; the seconds of {self.untold} rows had fewer than {FEWEST} timed runs and are not compared"
        return "\n".join([head, *(f"  {c.line}" for c in self.changes)])


def noise(a: Result, b: Result) -> float:
    """Seconds by which two medians may differ by chance."""
    error = MEDIAN_ERROR * sqrt(a.spread**2 / a.repeat + b.spread**2 / b.repeat)
    return max(SIGMAS * error, a.spread + b.spread, FLOOR * a.seconds)


def changes(a: Result, b: Result) -> list[Change]:
    """Bytes are counted, not timed: any difference is a change."""
    out = []
    if a.status != b.status:
        out.append(Change(a.key, "status", a.status, b.status))
    for what in ("promised_peak", "peak", "activation"):
        x, y = getattr(a, what), getattr(b, what)
        if x and y and x != y:
            out.append(Change(a.key, what.replace("_", " "), format_bytes(x), format_bytes(y), 100 * (y / x - 1)))
    x, y = a.promised_seconds, b.promised_seconds
    if x and y and abs(y - x) > 1e-6 * x:
        out.append(Change(a.key, "promised time", format_seconds(x), format_seconds(y), 100 * (y / x - 1)))
    x, y = a.seconds, b.seconds
    if x and y and min(a.repeat, b.repeat) >= FEWEST and abs(y - x) > noise(a, b):
        out.append(Change(a.key, "time", format_seconds(x), format_seconds(y), 100 * (y / x - 1)))
    return out


def compare(before: Results, after: Results) -> Comparison:
    """Raises BadInput for files of two experiments or machines, whose differences say nothing of foldfit."""
    same = (before.experiment, before.scale, before.device) == (after.experiment, after.scale, after.device)
    if not same or (before.machine and after.machine and before.machine != after.machine):
        raise BadInput(f"the baseline is {before.origin}; this is {after.origin}: a baseline is of the same experiment and machine")
    old, new = {r.key: r for r in before.results}, {r.key: r for r in after.results}
    both = [(old[key], new[key]) for key in old if key in new]
    if not both:
        raise BadInput("the baseline and these results have no row in common")
    found = [change for a, b in both for change in changes(a, b)]
    found += [Change(key, "row", "there", "gone") for key in old if key not in new]
    found += [Change(key, "row", "none", "new") for key in new if key not in old]
    untold = sum(bool(a.seconds and b.seconds) and min(a.repeat, b.repeat) < FEWEST for a, b in both)
    return Comparison(len(both), tuple(found), untold)
