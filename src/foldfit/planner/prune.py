"""Options that can never be part of a best plan: those that another one beats in every component, bytes and seconds."""

from collections.abc import Sequence

import numpy as np

from foldfit.planner.table import Forward, Record, Stage, Sub


def undominated(*components: Sequence[float] | np.ndarray) -> np.ndarray:
    """Indices of the rows that no other row is at most in every component; of equal rows the first. Never a sum of
    components: an option with less memory in total may need more of it at the wrong moment."""
    parts = np.array(components, dtype=float).T
    order = np.lexsort(parts.T[::-1])
    rows = parts[order]
    beats = np.ones((len(rows), len(rows)), dtype=bool)
    for column in rows.T:
        beats &= column[:, None] <= column[None, :]
    # In this order only an earlier row can beat a later one, or be its equal.
    return np.sort(order[~np.triu(beats, 1).any(axis=0)])


def records_of(sub: Sub) -> tuple[Record, ...]:
    """Its record options. Raises ValueError for none."""
    if not sub.record:
        raise ValueError(f"{sub.name} has no option that can be recorded: it cannot be trained")
    return sub.record


def kept_records(sub: Sub) -> tuple[Record, ...]:
    """The record options worth having."""
    o = records_of(sub)
    parts = [[max(r.inter, r.saved) for r in o], [r.saved for r in o], [max(r.back, r.saved) for r in o]]
    return tuple(o[i] for i in undominated(*parts, [r.seconds + r.back_seconds for r in o]))


def stairs(sub: Sub) -> tuple[Forward, ...]:
    """The forward options worth having, from the least memory to the least seconds."""
    steps: list[Forward] = []
    for option in sorted(sub.forward, key=lambda o: (o.inter, o.seconds)):
        if not steps or option.seconds < steps[-1].seconds:
            steps.append(option)
    return tuple(steps)


def fastest(steps: tuple[Forward, ...], room: int) -> Forward | None:
    """The fastest of `stairs` with at most `room` bytes of intermediates."""
    return next((o for o in reversed(steps) if o.inter <= room), None)


def largest_record(stage: Stage) -> int:
    """Bytes that a record of a block preserves at most."""
    return sum(sub.written + max(r.saved for r in records_of(sub)) for sub in stage.subs)
