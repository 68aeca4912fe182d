"""Memory over time of a schedule: exactly what the executor (runtime/executor.py) holds. Promises are made of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from foldfit.planner.table import Chain, Forward, Record

COPY, WAIT, ROOM = "copy of the state", "wait for the host", "room for a copy back"
"""Moments between sub-modules."""


@dataclass(frozen=True)
class Moment:
    """One sub-module of one step, or what lies between: bytes alive before it, its peak, its seconds."""

    step: str
    sub_module: str
    alive: int
    peak: int
    seconds: float

    @property
    def between(self) -> bool:
        return self.sub_module in (COPY, WAIT, ROOM)


@dataclass(frozen=True)
class Copy:
    """Of a block's input, beside the computation: its step, whether it goes to the host, seconds at which it begins and ends."""

    step: str
    leaves: bool
    begin: float
    end: float


WORDS = {"check": 1, "load": 1, "free": 1, "backward": 1, "run": 2, "record": 2, "offload": 1, "drop": 1, "fetch": 1}
"""How many words follow the verb of a step."""


@dataclass
class Timeline:
    """`host_bytes`: of the buffers that hold block inputs on the host, each kept for the next input of its size, and of state tensors
    at home there."""

    moments: list[Moment] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    host_bytes: int = 0
    activation: int = 0
    """Bytes alive when forward ends, beyond those that stay."""

    @property
    def peak(self) -> int:
        return max((m.peak for m in self.moments), default=0)

    @property
    def peak_at(self) -> str:
        worst = max(self.moments, key=lambda m: m.peak)
        return f"{worst.sub_module} of `{worst.step}`"

    @property
    def seconds(self) -> float:
        return sum(m.seconds for m in self.moments)

    @property
    def exposed(self) -> float:
        """Seconds of them in which the computation waits for a copy."""
        return sum((m.seconds for m in self.moments if m.sub_module == WAIT), 0.0)


class Buffer:
    """Bytes that are freed when nothing refers to them any more. `free`: they belong to the caller and cost nothing."""

    def __init__(self, size: int) -> None:
        self.size = size


class Simulator:
    """The executor's state with sizes in place of tensors."""

    def __init__(self, chain: Chain, choices: Mapping[str, Sequence[object]]) -> None:
        self.chain, self.choices, self.stages = chain, choices, chain.stages()
        subs = {id(sub): sub for stage, _ in chain.runs for sub in stage.subs}
        self.forward_of = {i: {f.key: f for f in sub.forward} for i, sub in subs.items()}
        self.record_of = {i: {r.key: r for r in sub.record} for i, sub in subs.items()}
        self.state: Buffer | None = Buffer(0)
        self.at = 0
        self.owned = chain.owned
        self.checkpoints: dict[int, Buffer | None] = {}
        self.records: dict[int, tuple[Buffer, list[int], list[Record]]] = {}
        self.outputs: Buffer | None = None
        self.backward_phase = False
        self.expected = len(self.stages)
        self.home = dict(chain.home)
        self.timeline = Timeline(host_bytes=sum(self.home.values()))
        self.visiting: set[str] = set()
        """State tensors that are on the device now, though their home is the host."""
        self.host: set[int] = set()
        """Blocks whose input has a host buffer; its copy is on the device as well while the checkpoint is not None."""
        self.buffers: Counter[int] = Counter()
        """Host buffers that are free, by size."""
        self.clock = self.out_clock = self.back_clock = 0.0
        """Seconds at which the computation, the copies out and the copies back are done with what they were given."""
        self.arrival: dict[int, float] = {}
        """When the last copy of a block's input is there, until the computation has waited for it."""

    def alive(self) -> int:
        return (self.chain.base_backward if self.backward_phase else self.chain.base_forward) + self.own()

    def own(self) -> int:
        """Bytes beyond those that stay."""
        base = self.guests()
        held = {id(b): b.size for b in (self.state, *self.checkpoints.values()) if b}
        for source, versions, chosen in self.records.values():
            held[id(source)] = source.size
            base += sum(versions) + sum(r.saved for r in chosen)
        if self.outputs is not None:
            held.pop(id(self.outputs), None)
        return base + sum(held.values())

    def guests(self) -> int:
        return sum(self.home[name] for name in self.visiting)

    def place(self, step: str, block: int, host: frozenset[str]) -> None:
        """State tensors go home and come from there, as a sub-module wants them."""
        visiting = set(self.stages[block].names & self.home.keys() - host)
        moved = sum(self.home[name] for name in visiting ^ self.visiting)
        if moved:
            self.visiting = visiting
            alive = self.alive()
            self.note(step, WAIT, alive, alive, moved / self.chain.host_link)

    def gradient(self, block: int) -> int:
        return self.stages[min(block, len(self.stages) - 1)].state if self.backward_phase else 0

    def keys(self, step: str, block: int, choice: str) -> Sequence[object]:
        keys = self.choices.get(choice, ())
        self.require(len(keys) == len(self.stages[block].subs), step, f"needs a choice {choice!r} with a key for each sub-module")
        return keys

    def lookup(self, block: int, j: int, table: dict[int, dict], key: object, verb: str) -> Forward | Record:
        found = table[id(self.stages[block].subs[j])].get(key)
        if found is None:
            raise ValueError(f"{verb} {block}: {self.stages[block].subs[j].name} has no option {key}")
        return found

    def require(self, ok: bool, step: str, why: str) -> None:
        if not ok:
            raise ValueError(f"illegal schedule: `{step}` {why}")

    def do(self, step: str) -> None:
        verb, *rest = step.split()
        if step == "end":
            self.end(step)
            return
        self.require(WORDS.get(verb) == len(rest) and rest[0].isdecimal(), step, "is no step")
        block = int(rest[0])
        self.require(0 <= block < len(self.stages), step, f"is outside the {len(self.stages)} blocks")
        getattr(self, f"do_{verb}")(step, block, *rest[1:])

    def end(self, step: str) -> None:
        self.require(self.at == len(self.stages) and self.state is not None and not self.backward_phase, step, "before the last block")
        self.place(step, len(self.stages) - 1, frozenset(self.home))
        self.timeline.activation = self.own()
        self.backward_phase = True
        self.outputs, self.state = self.state, None
        last = len(self.stages) - 1
        if last in self.records:  # the caller holds the last versions now, as outputs
            versions = self.records[last][1]
            for j, sub in enumerate(self.stages[last].subs):
                versions[j] = 0 if sub.final else versions[j]

    def do_check(self, step: str, block: int) -> None:
        self.require(self.state is not None and self.at == block, step, f"but the state is at block {self.at}")
        assert self.state is not None
        self.checkpoints[block] = self.state
        self.owned = False

    def do_load(self, step: str, block: int) -> None:
        self.require(self.checkpoints.get(block) is not None, step, "without a checkpoint on the device")
        self.wait(step, block)
        self.state, self.at, self.owned = self.checkpoints[block], block, False

    def do_free(self, step: str, block: int) -> None:
        self.require(block in self.checkpoints, step, "without a checkpoint")
        self.wait(step, block)
        del self.checkpoints[block]
        if block in self.host:
            self.host.remove(block)
            self.buffers[self.stages[block].state] += 1

    def do_offload(self, step: str, block: int) -> None:
        ours = block > 0 and self.checkpoints.get(block) is not None and block not in self.host
        self.require(ours and self.chain.host_link > 0, step, "without a checkpoint of its own, or without a host")
        size = self.stages[block].state
        self.host.add(block)
        if self.buffers[size]:
            self.buffers[size] -= 1
        else:
            self.timeline.host_bytes += size
        begin = max(self.clock, self.out_clock)
        self.arrival[block] = self.out_clock = begin + size / self.chain.host_link
        self.timeline.copies.append(Copy(step, True, begin, self.out_clock))

    def do_drop(self, step: str, block: int) -> None:
        held = self.checkpoints.get(block)
        self.require(block in self.host and held is not None and held is not self.state, step, "without a copy, or in use")
        self.wait(step, block)
        self.checkpoints[block] = None

    def do_fetch(self, step: str, block: int) -> None:
        self.require(block in self.host and self.checkpoints[block] is None, step, "but it is not on the host alone")
        size = self.stages[block].state
        self.checkpoints[block] = Buffer(size)
        alive = self.alive()
        self.note(step, ROOM, alive, alive, 0.0)
        begin = max(self.clock, self.back_clock)
        self.arrival[block] = self.back_clock = begin + size / self.chain.host_link
        self.timeline.copies.append(Copy(step, False, begin, self.back_clock))

    def wait(self, step: str, block: int) -> None:
        """The computation goes on when the copy of a block's input is there."""
        seconds = self.arrival.pop(block, 0.0) - self.clock
        if seconds > 0:
            alive = self.alive()
            self.note(step, WAIT, alive, alive, seconds)

    def note(self, step: str, sub_module: str, alive: int, peak: int, seconds: float) -> None:
        self.timeline.moments.append(Moment(step, sub_module, alive, peak, seconds))
        self.clock += seconds

    def do_run(self, step: str, block: int, choice: str) -> None:
        self.require(self.state is not None and self.at == block, step, f"but the state is at block {self.at}")
        stage = self.stages[block]
        if not self.owned:
            self.state, self.owned = Buffer(stage.state), True
            alive = self.alive() + self.gradient(block)
            self.note(step, COPY, alive, alive, 0.0)
        for j, key in enumerate(self.keys(step, block, choice)):
            option = self.lookup(block, j, self.forward_of, key, "run")
            assert isinstance(option, Forward)
            self.place(step, block, option.host)
            alive = self.alive() + self.gradient(block)
            self.note(step, stage.subs[j].name, alive, alive + option.inter, option.seconds)
        self.arrive(block + 1)

    def arrive(self, block: int) -> None:
        """At the input of a block: where another stack begins, its tensors replace the last one's."""
        self.at = block
        if self.visiting and block < len(self.stages):
            self.visiting &= {name for stage in self.stages[block:] for name in stage.names}
        if 0 < block < len(self.stages) and self.stages[block] is not self.stages[block - 1] and self.state and self.state.size:
            entry = self.stages[block].entry
            self.state, self.owned = Buffer(self.stages[block].state if entry is None else entry), False

    def do_record(self, step: str, block: int, choice: str) -> None:
        self.require(self.state is not None and self.at == block, step, f"but the state is at block {self.at}")
        self.require(block not in self.records and block < self.expected, step, "a second time")
        assert self.state is not None
        stage = self.stages[block]
        source = self.state
        versions: list[int] = []
        chosen: list[Record] = []
        self.records[block] = (source, versions, chosen)
        for j, key in enumerate(self.keys(step, block, choice)):
            option = self.lookup(block, j, self.record_of, key, "record")
            assert isinstance(option, Record)
            alive = self.alive() + self.gradient(block)
            versions.append(stage.subs[j].written)
            self.note(step, stage.subs[j].name, alive, alive + versions[-1] + option.inter, option.seconds)
            chosen.append(option)
        self.state, self.owned = Buffer(0), False  # its bytes are the record's versions
        self.arrive(block + 1)

    def do_backward(self, step: str, block: int) -> None:
        self.require(block in self.records and self.backward_phase and self.expected == block + 1, step, "out of order")
        self.state = None
        self.expected = block
        _, versions, chosen = self.records[block]
        stage = self.stages[block]
        for j in reversed(range(len(chosen))):
            option = chosen.pop()
            versions.pop()
            alive = self.alive() + self.gradient(block)
            self.note(step, stage.subs[j].name, alive + option.saved, alive + option.back, option.back_seconds)
        del self.records[block]


def simulate(chain: Chain, choices: Mapping[str, Sequence[object]], schedule: Sequence[str]) -> Timeline:
    """Raises ValueError for an illegal schedule: steps out of order, a backward without its record, an unknown option."""
    simulator = Simulator(chain, choices)
    for step in schedule:
        simulator.do(step)
    return simulator.timeline
