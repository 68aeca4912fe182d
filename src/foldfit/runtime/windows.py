"""Rows of state tensors, slice by slice: parts of those on the device; of those on the host copies, which come and go beside the
computation of the slices before and after.

The device's memory is given out and taken back in the computation's own order, as in runtime/offload.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from foldfit.runtime.link import IN, OUT, Event, Waits, begin, wait
from foldfit.runtime.rows import slices
from foldfit.stacks.spec import Axis

READ, WRITTEN = 2, 3
"""Buffers that take turns: one is worked on, one filled, and one that was written is emptied."""


@dataclass(frozen=True)
class Away:
    """`names`: the state tensors on the host while a sub-module runs on `device`."""

    names: frozenset[str] = frozenset()
    device: torch.device = torch.device("cpu")
    waits: Waits = None


class Part:
    """Of a tensor on the device."""

    def __init__(self, x: Tensor, axis: int) -> None:
        self.x, self.axis = x, axis

    def fetch(self, start: int, stop: int) -> None:
        """Begins to bring the rows, which may be asked for later."""

    def rows(self, start: int, stop: int) -> Tensor:
        return self.x.narrow(self.axis, start, stop - start)

    def leave(self, start: int, stop: int) -> None:
        """Nothing more is done to the rows."""

    def close(self) -> None:
        """Everything is where it belongs, for what the computation is given next."""


class Window(Part):
    """Of a tensor on the host."""

    def __init__(self, x: Tensor, axis: int, rows: int, written: bool, away: Away) -> None:
        super().__init__(x, axis)
        self.each, self.written, self.away = rows, written, away
        slots = min(WRITTEN if written else READ, -(-x.shape[axis] // rows))
        size = min(rows, x.shape[axis]) * (x.numel() // x.shape[axis])
        self.buffers = [torch.empty(size, dtype=x.dtype, device=away.device) for _ in range(slots)]
        made = torch.cuda.current_stream(away.device).record_event() if self.beside else None
        self.there: list[Event] = [None] * slots
        self.empty: list[Event] = [made] * slots

    @property
    def beside(self) -> bool:
        return self.away.device.type == "cuda"

    def slot(self, start: int) -> int:
        return start // self.each % len(self.buffers)

    def buffer(self, start: int, stop: int) -> Tensor:
        shape = list(self.x.shape)
        shape[self.axis] = stop - start
        return self.buffers[self.slot(start)][: self.x.numel() // self.x.shape[self.axis] * (stop - start)].view(shape)

    def fetch(self, start: int, stop: int) -> None:
        slot = self.slot(start)
        pair = self.buffer(start, stop), super().rows(start, stop)
        self.there[slot] = begin(self.away.device, IN, [pair], self.away.waits, self.empty[slot])

    def rows(self, start: int, stop: int) -> Tensor:
        wait(self.away.device, self.there[self.slot(start)], self.away.waits)
        return self.buffer(start, stop)

    def leave(self, start: int, stop: int) -> None:
        slot = self.slot(start)
        if self.written:
            self.empty[slot] = begin(self.away.device, OUT, [(super().rows(start, stop), self.buffer(start, stop))], self.away.waits)
        elif self.beside:
            self.empty[slot] = torch.cuda.current_stream(self.away.device).record_event()

    def close(self) -> None:
        """Also of copies that an error left under way."""
        for event in (*self.there, *self.empty):
            wait(self.away.device, event, self.away.waits)


def windows(
    tensors: dict[Axis, Tensor], rows: int, away: Away, written: Axis | None = None
) -> Iterator[tuple[int, int, dict[Axis, Tensor]]]:
    """(start, stop, those rows of every tensor), slice by slice; tensors [a0, a1, c] or [a0, c] by their names and axes, which are
    equally long. What is done to the rows of `written` stays."""
    name, axis = next(iter(tensors))
    spans = list(slices(tensors[name, axis].shape[axis], rows))
    parts = {
        at: Window(x, at[1], rows, at == written, away) if at[0] in away.names and spans else Part(x, at[1]) for at, x in tensors.items()
    }
    try:
        for span, following in zip([None, *spans], [*spans, None], strict=True):
            for part in parts.values():
                if following:
                    part.fetch(*following)
            if span:
                yield *span, {at: part.rows(*span) for at, part in parts.items()}
                for part in parts.values():
                    part.leave(*span)
    finally:
        for part in parts.values():
            part.close()
