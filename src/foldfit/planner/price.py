"""What more memory would buy, read off a frontier."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from foldfit.planner.solution import Frontier


@dataclass(frozen=True)
class NextSize:
    """The next larger memory: `limit` bytes, `seconds` there, and `saved` seconds against the limit at hand."""

    limit: int
    seconds: float
    saved: float


def shadow_price(frontier: Frontier, limit: int) -> float:
    """Seconds that a byte more than `limit` saves at the best: the steepest slope to any larger memory of the frontier,
    which is the slope of its lower convex hull. Infinite where nothing fits yet, 0 at the frontier's end."""
    seconds = frontier.at(limit)[0]
    more = (frontier.limits > limit) & np.isfinite(frontier.seconds)
    if not np.isfinite(seconds):
        return float("inf") if more.any() else 0.0
    slopes = (seconds - frontier.seconds[more]) / (frontier.limits[more] - limit)
    return float(max(slopes.max(), 0.0)) if more.any() else 0.0


def next_size(frontier: Frontier, limit: int, sizes: Iterable[int]) -> NextSize | None:
    """What the smallest of `sizes` (bytes) above `limit` buys; None without one. Raises ValueError where the frontier
    ends before that size though more memory still buys time: it must be solved for the larger memory."""
    larger = min((size for size in sizes if size > limit), default=None)
    if larger is None:
        return None
    end = int(frontier.limits[-1])
    if larger > end and not frontier.complete:
        raise ValueError(f"the frontier ends at {end} bytes, below {larger}")
    seconds = frontier.at(larger)[0]
    return NextSize(larger, seconds, frontier.at(limit)[0] - seconds)
