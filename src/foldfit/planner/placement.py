"""When copies to the host and back begin and end, within the limit: as far apart as it takes to hide them."""

from collections import deque
from dataclasses import replace

from foldfit.planner.simulate import Simulator
from foldfit.planner.solution import Step, write
from foldfit.planner.table import Chain

CAUTION = 1.25
"""The schedule gives a copy this many times the seconds that the link's speed says."""


def place(chain: Chain, steps: list[Step], limit: int) -> list[Step]:
    """The same steps with each `drop` as late as its copy takes, and each `fetch` as early, where the limit allows.

    Raises nothing: where not even the steps as they are fit, they stay.
    """
    slow = CAUTION / chain.host_link
    peaks, seconds, sizes = costs_of(chain, steps)
    drops: dict[int, list[int]] = {i: [] for i in range(len(steps))}
    fetches: dict[int, list[int]] = {i: [] for i in range(len(steps))}
    held = [0] * len(steps)
    start = [0.0] * len(steps)
    leaving: deque[int] = deque()
    done: dict[int, float] = {}
    dropped: dict[int, int] = {}
    clock = out = 0.0
    for i, step in enumerate(steps):
        while leaving and (done[leaving[0]] <= clock or peaks[i] + sum(sizes[b][0] for b in leaving) > limit):
            block = leaving.popleft()
            drops[i].append(block)
            dropped[block], clock = i, max(clock, done[block])
        if step.verb == "offload":
            out = max(clock, out) + slow * sizes[step.block][1]
            done[step.block] = out
        elif step.verb == "drop":
            leaving.append(step.block)
        elif step.verb == "fetch" and step.block in leaving:
            leaving.remove(step.block)  # there was room for it all the time
        held[i], start[i] = sum(sizes[b][0] for b in leaving), clock
        clock += seconds[i]
    earliest, back = next(i for i, step in enumerate(steps) if step.verb == "end") + 1, 0.0
    for i, step in enumerate(steps):
        if step.verb != "fetch" or step.block not in dropped:
            continue
        size, at = sizes[step.block][1], i
        first = max(earliest, dropped[step.block])
        while at > first and max(start[at], back) + slow * size > start[i] and peaks[at - 1] + held[at - 1] + size <= limit:
            at -= 1
            held[at] += size
        earliest, back = at, max(start[at], back) + slow * size
        fetches[at].append(step.block)
    out_steps: list[Step] = []
    for i, step in enumerate(steps):
        out_steps += [Step("drop", block) for block in drops[i]] + [Step("fetch", block) for block in fetches[i]]
        if step.verb not in ("drop", "fetch") and not (step.verb == "offload" and step.block not in dropped):
            out_steps.append(step)
    return out_steps


def costs_of(chain: Chain, steps: list[Step]) -> tuple[list[int], list[float], dict[int, tuple[int, int]]]:
    """Of each step its peak and seconds without waiting; of each offloaded block its input's bytes, when it goes and when it
    comes back."""
    names, lines = write(steps)
    simulator = Simulator(replace(chain, host_link=float("inf")), names)
    peaks, seconds, sizes = [], [], {}
    for step, line in zip(steps, lines, strict=True):
        before, clock = simulator.alive(), simulator.clock
        seen = len(simulator.timeline.moments)
        simulator.do(line)
        peaks.append(max([before, *(m.peak for m in simulator.timeline.moments[seen:])]))
        seconds.append(simulator.clock - clock)
        if step.verb == "offload":
            held = simulator.checkpoints[step.block]
            sizes[step.block] = (held.size if held else 0, simulator.stages[step.block].state)
    return peaks, seconds, sizes
