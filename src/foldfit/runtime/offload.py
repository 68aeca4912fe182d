"""What is on the host. Block inputs of a training step: copied out and back beside the computation, in buffers that stay for the next
run. State tensors of an inference: where the caller has them, between its sub-modules and, by rows (runtime/windows.py), in them.

The device's memory is given out and taken back in the computation's own order: a copy back begins when the computation has come
to where its tensors are made, and they, or those that were copied out, are let go only when it has waited for the copy. So
the allocator needs to know of no second stream, and what is allocated is what the schedule says.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from functools import lru_cache

import torch
from torch import Tensor

from foldfit.runtime.link import IN, OUT, Event, Waits, begin, host_buffer, pin, wait

State = dict[str, Tensor]


class Pool:
    """Host buffers by size. `made`: bytes of all that were made, in use or not; `callers`: of the last run's state tensors on the host."""

    def __init__(self, pinned: bool) -> None:
        self.pinned, self.made, self.callers = pinned, 0, 0
        self.free: defaultdict[int, list[Tensor]] = defaultdict(list)

    @property
    def held(self) -> int:
        return self.made + self.callers

    def adopt(self, tensors: Iterable[Tensor]) -> None:
        """The caller's own, in the place of those of the last run: pinned where they lie."""
        self.callers = 0
        for x in tensors:
            if self.pinned:
                pin(x)
            self.callers += x.nbytes

    def take(self, size: int) -> Tensor:
        if self.free[size]:
            return self.free[size].pop()
        self.made += size
        return host_buffer(size, self.pinned)

    def give(self, buffer: Tensor) -> None:
        self.free[buffer.nbytes].append(buffer)


@lru_cache(maxsize=1)
def pool_of(digest: str, pinned: bool) -> Pool:
    """The last plan's alone: pinning takes longer than a copy, and the limit on it is a plan's."""
    return Pool(pinned)


class Copy:
    """An input on the host: its buffer, its parts in the layout of its tensors, and the event after its last copy."""

    def __init__(self, buffer: Tensor, state: State) -> None:
        self.buffer = buffer
        parts = buffer.split([x.nbytes for x in state.values()])
        self.parts = {name: laid_out(part.view(x.dtype), x) for (name, x), part in zip(state.items(), parts, strict=True)}
        self.event: Event = None


def laid_out(flat: Tensor, x: Tensor) -> Tensor:
    """`flat` in the layout of x, so that a copy is one of plain bytes; without its gaps, which a part of a caller's tensor has."""
    size = 1
    for stride, length in sorted(zip(x.stride(), x.shape, strict=True)):
        if length > 1 and stride != size:
            return flat.view(x.shape)
        size *= length
    return flat.as_strided(x.shape, x.stride())


class Host:
    """The inputs that one run of a plan has on the host, by block. A run that is abandoned gives their buffers back."""

    def __init__(self, digest: str, waits: Waits = None) -> None:
        self.digest, self.waits = digest, waits
        self.device = torch.device("cpu")
        self.copies: dict[int, Copy] = {}
        self.pool: Pool

    def __del__(self) -> None:
        for kept in getattr(self, "copies", {}).values():  # what torch.compile looks at was never made
            self.pool.give(kept.buffer)

    def receive(self, state: State, device: torch.device) -> "Home":
        """A caller's tensors, pinned where they lie."""
        if state:
            pool_of(self.digest, device.type == "cuda").adopt(state.values())
        return Home(state, device, self.waits)

    def offload(self, block: int, state: State) -> None:
        """Begins the copy of `state`, which must stay until it is dropped."""
        self.device = next(iter(state.values())).device
        if not self.copies:
            self.pool = pool_of(self.digest, self.device.type == "cuda")
        self.copies[block] = to = Copy(self.pool.take(sum(x.nbytes for x in state.values())), state)
        to.event = begin(self.device, OUT, [(to.parts[name], x) for name, x in state.items()], self.waits)

    def fetch(self, block: int) -> State:
        """New tensors, and begins the copy back into them; they may be read when it was waited for."""
        of = self.copies[block]
        state = {name: torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=self.device) for name, x in of.parts.items()}
        of.event = begin(self.device, IN, [(x, of.parts[name]) for name, x in state.items()], self.waits)
        return state

    def wait(self, block: int) -> None:
        """Makes the computation, not the host, wait for the last copy of an input."""
        if block in self.copies:
            wait(self.device, self.copies[block].event, self.waits)
            self.copies[block].event = None

    def free(self, block: int) -> None:
        self.wait(block)
        if block in self.copies:
            self.pool.give(self.copies.pop(block).buffer)

    def close(self) -> None:
        """Nothing is under way any more: before tensors are let go where an error ends a run."""
        for block in self.copies:
            self.wait(block)


class Home:
    """The state tensors whose home is the host, `tensors`, and which of them are on the device in the meantime."""

    def __init__(self, tensors: State, device: torch.device, waits: Waits = None) -> None:
        self.tensors, self.device, self.waits = tensors, device, waits
        self.visiting: set[str] = set()

    def place(self, state: State, wanted: Collection[str]) -> None:
        """Of `state`, what is at home here: to the host what is `wanted` there, the rest to the device."""
        self.visiting &= state.keys()
        for name in sorted(self.visiting & set(wanted)):
            self.move(OUT, self.tensors[name], state[name])
            state[name] = self.tensors[name]
            self.visiting.remove(name)
        for name in sorted((self.tensors.keys() & state.keys()) - self.visiting - set(wanted)):
            state[name] = torch.empty_like(self.tensors[name], device=self.device)
            self.move(IN, state[name], self.tensors[name])
            self.visiting.add(name)

    def move(self, way: int, target: Tensor, source: Tensor) -> None:
        wait(self.device, begin(self.device, way, [(target, source)], self.waits), self.waits)

    def close(self) -> None:
        """The caller may read its tensors."""
        if self.tensors and self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
