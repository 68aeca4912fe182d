"""Exact search over all persistent nested schedules of a tiny chain: what the other solvers are tested against.

Persistent: what is kept stays until its block's backward. Nested: the schedule goes back only in the backward phase,
and only to the last input kept. With host memory, the inputs kept in the forward phase may wait there; copies take no time in
the search, so that what it finds is a lower bound for any link. The search is A* over the states of the simulator; its
estimate, the least seconds of every record and backward still to come, is never too high.
"""

import heapq
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from itertools import count, product
from math import prod

from foldfit.errors import DoesNotFit, NotSupported
from foldfit.planner.grid import SLOTS
from foldfit.planner.simulate import Simulator, Timeline
from foldfit.planner.solution import Solution, Step, solved, timeline_of, write
from foldfit.planner.table import Chain, Record

MOST_BLOCKS = 4
MOST_CHOICES = 9
"""Limits on what is searched: blocks of a chain, combinations of a block's options."""

State = tuple[int, bool, bool, int, frozenset[tuple[int, bool, bool]], tuple[Step, ...]]
Path = tuple["Path", Step] | None


class Node:
    """A simulator on its way. `records`: the record steps whose backward is still to come, by block."""

    def __init__(self, simulator: Simulator, path: Path = None, seconds: float = 0.0, peak: int = 0) -> None:
        self.simulator, self.path, self.seconds, self.peak = simulator, path, seconds, peak
        self.records: dict[int, Step] = {}

    def after(self, step: Step, text: str) -> "Node":
        old = self.simulator
        new = copy(old)
        new.checkpoints, new.host = dict(old.checkpoints), set(old.host)
        new.buffers, new.arrival = old.buffers.copy(), dict(old.arrival)
        new.records = {b: (source, list(versions), list(chosen)) for b, (source, versions, chosen) in old.records.items()}
        new.timeline = Timeline()
        new.do(text)
        node = Node(new, (self.path, step), self.seconds + new.timeline.seconds, max(self.peak, new.timeline.peak))
        node.records = {b: s for b, s in self.records.items() if (step.verb, step.block) != ("backward", b)}
        if step.verb == "record":
            node.records[step.block] = step
        return node

    def state(self) -> State:
        s = self.simulator
        position = s.at if s.state is not None else -1
        kept = frozenset((b, buffer is None, b in s.host) for b, buffer in s.checkpoints.items())
        return position, s.owned, s.backward_phase, s.expected, kept, tuple(self.records.values())

    def steps(self) -> list[Step]:
        path, out = self.path, []
        while path is not None:
            path, step = path
            out.append(step)
        return out[::-1]


class Search:
    def __init__(self, chain: Chain) -> None:
        self.chain, self.blocks = chain, chain.stages()
        stages = [stage for stage, _ in chain.runs]
        options = [[x.forward for x in s.subs] for s in stages] + [[x.record for x in s.subs] for s in stages]
        most = max(prod(map(len, of)) for of in options)
        if len(self.blocks) > MOST_BLOCKS or most > MOST_CHOICES:
            raise NotSupported(
                f"the exhaustive solver takes at most {MOST_BLOCKS} blocks of {MOST_CHOICES} combinations, got {len(self.blocks)} of {most}"
            )
        self.runs = {id(s): list(product(*(sub.forward for sub in s.subs))) for s in stages}
        self.records = {id(s): list(product(*(sub.record for sub in s.subs))) for s in stages}
        combinations: list[list[tuple]] = [*self.runs.values(), *self.records.values()]
        every = [Step("run", 0, c) for cs in combinations for c in cs]
        names, lines = write(every)
        self.name = {step.options: line.split()[2] for step, line in zip(every, lines, strict=True)}
        self.choices = names
        self.least = [min(map(record_seconds, self.records[id(stage)])) for stage in self.blocks]

    def text(self, step: Step) -> str:
        return " ".join([step.verb] + ([] if step.block < 0 else [str(step.block)]) + ([self.name[step.options]] if step.options else []))

    def to_come(self, node: Node) -> float:
        back = sum(sum(o.back_seconds for o in step.options if isinstance(o, Record)) for step in node.records.values())
        return back + sum(self.least[b] for b in range(node.simulator.expected) if b not in node.records)

    def next_steps(self, node: Node) -> Iterator[Step]:
        s = node.simulator
        after = s.expected - 1
        if s.backward_phase and after in node.records:
            yield Step("backward", after)
        elif s.state is None:
            kept = max(s.checkpoints, default=-1)
            if kept >= 0 and max(node.records, default=-1) < kept:
                yield Step("load" if s.checkpoints[kept] else "fetch", kept)
        elif s.at == len(self.blocks):
            yield Step("end")
        else:
            stage, held = self.blocks[s.at], s.checkpoints.get(s.at)
            away = [b for b in s.host if s.checkpoints[b] not in (None, s.state)]
            if away and not s.backward_phase:
                yield Step("drop", away[0])
                return
            if s.at not in s.checkpoints:
                yield Step("check", s.at)
            elif held is s.state and not s.backward_phase and self.fits_host(s):
                yield Step("offload", s.at)
            if not s.backward_phase or s.at < after:
                yield from (Step("run", s.at, options) for options in self.runs[id(stage)])
            yield from (Step("record", s.at, options) for options in self.records[id(stage)])

    def fits_host(self, s: Simulator) -> bool:
        there = sum(self.blocks[b].state for b in (*s.host, s.at))
        return 0 < s.at not in s.host and there <= self.chain.host_memory

    def best(self, limit: int | None) -> list[Step] | None:
        """Least seconds within `limit` bytes; with None, the least peak."""
        order = count()
        start = Node(Simulator(self.chain, self.choices), peak=self.chain.base_backward)
        queue = [((0.0, 0.0), next(order), start)]
        seen: dict[State, tuple[float, float]] = {}
        while queue:
            _, _, node = heapq.heappop(queue)
            if node.simulator.expected == 0:
                return node.steps()
            for step in self.next_steps(node):
                new = node.after(step, self.text(step))
                if step.verb == "record" and step.block in new.simulator.checkpoints:
                    new = new.after(Step("free", step.block), f"free {step.block}")
                if limit is not None and new.peak > limit:
                    continue
                cost = (new.seconds + self.to_come(new), 0.0) if limit is not None else (float(new.peak), new.seconds)
                state = new.state()
                if cost < seen.get(state, (float("inf"), 0.0)):
                    seen[state] = cost
                    heapq.heappush(queue, (cost, next(order), new))
        return None


def record_seconds(options: tuple[Record, ...]) -> float:
    return sum(o.seconds + o.back_seconds for o in options)


def solve(chain: Chain, limit: int, slots: int = SLOTS) -> Solution:
    """The optimum, which is its own bound. Raises DoesNotFit with the exact need, ValueError for a chain that is too
    large. `slots` is not used: nothing is rounded."""
    search = Search(replace(chain, host_link=float("inf")))
    steps = search.best(limit) if chain.base_backward <= limit else None
    if steps is None:
        least = search.best(None)
        if least is None:
            raise ValueError("a sub-module cannot be recorded")
        timeline = timeline_of(chain, least)
        raise DoesNotFit(
            f"the least memory for training is {timeline.peak} bytes (at {timeline.peak_at}), the limit is {limit}",
            need=timeline.peak,
            have=limit,
            where=timeline.peak_at,
        )
    return solved(chain, steps, timeline_of(search.chain, steps).seconds)
