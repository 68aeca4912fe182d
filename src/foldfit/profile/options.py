"""Measures options on this device: one sub-module at a time, as the executor runs it."""

import time
from collections.abc import Callable

import torch

from foldfit.cost.database import Sample, name_of
from foldfit.cost.sizes import Shapes
from foldfit.model import SUB_MODULES
from foldfit.plans import Choice
from foldfit.problem import Problem
from foldfit.runtime import apply
from foldfit.runtime.apply import Call
from foldfit.runtime.captured import stream_of
from foldfit.runtime.dropout import drop_mask
from foldfit.runtime.parameters import Gradients
from foldfit.runtime.trunk import DTYPES
from foldfit.stacks import SubModuleSpec

REPEATS, ENOUGH = 5, 0.05
"""Timed runs of an option, fewer once they have taken so many seconds; the median counts."""


class Bench:
    """One sub-module with random state on the device."""

    def __init__(self, problem: Problem, shapes: Shapes, spec: SubModuleSpec) -> None:
        self.spec, self.train = spec, problem.mode == "train"
        self.precision, self.launch, self.cuda = problem.precision, problem.launch, problem.device_type == "cuda"
        self.axes = shapes.axes
        self.seed = torch.zeros((), dtype=torch.int64, device=problem.device_type)
        dtype, device = DTYPES[problem.precision], torch.device(problem.device_type)
        used = {name for name, _ in (*spec.reads, spec.writes, *((spec.shares,) if spec.shares else ()))}
        self.state = {n: torch.randn(1, *self.axes[n], shapes.channels[n], dtype=dtype, device=device) for n in used}
        self.masks = {n: torch.ones(1, *self.axes[n], dtype=dtype, device=device) for n in used}
        self.grads = {n: torch.randn_like(x) for n, x in self.state.items()} if self.train else {}
        self.module = SUB_MODULES[spec.kind](spec).to(device, dtype)
        self.gradients = Gradients(list(self.module.parameters()))

    def call(self, choice: Choice) -> Call:
        """A fresh one, its dropout mask drawn."""
        drop = None
        if self.train and self.spec.dropout:
            tensor, axis = self.spec.writes
            lengths = self.axes[tensor]
            drop = drop_mask(self.spec, (lengths[axis], lengths[1 - axis]), self.seed, (0,), self.masks[tensor])
        return Call(self.module, choice, self.masks, drop)

    def clock(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def once(self, choice: Choice) -> tuple[float, float, float]:
        """Seconds forward, recorded and back."""
        target = self.state[self.spec.writes[0]]
        start = self.clock()
        apply.forward(self.call(choice), self.state, target)
        forward = self.clock() - start
        target.normal_()  # updates upon updates would run away
        if not self.train:
            return forward, forward, 0.0
        start = self.clock()
        call = self.call(choice)
        version, kept = apply.record(call, self.state)
        middle = self.clock()
        del version
        apply.backward(self.call(choice), self.state, kept, self.grads, self.gradients)
        end = self.clock()
        for g in self.grads.values():
            g.normal_()
        return forward, middle - start, end - middle

    def replays(self, choice: Choice) -> Callable[[], tuple[float, float, float]]:
        """As `once`, each part a CUDA graph."""
        graphs, pool = [torch.cuda.CUDAGraph() for _ in range(3)], torch.cuda.graph_pool_handle()
        stream = stream_of(self.seed.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.once(choice)
        torch.cuda.synchronize()
        target = self.state[self.spec.writes[0]].clone()
        with torch.cuda.graph(graphs[0], pool=pool, stream=stream):
            apply.forward(self.call(choice), self.state, target)
        if self.train:
            with torch.cuda.graph(graphs[1], pool=pool, stream=stream):
                version, kept = apply.record(self.call(choice), self.state)
            del version
            with torch.cuda.graph(graphs[2], pool=pool, stream=stream):
                apply.backward(self.call(choice), self.state, kept, self.grads, self.gradients)

        def once() -> tuple[float, float, float]:
            marks = [self.clock()]
            for graph in graphs if self.train else graphs[:1]:
                graph.replay()
                marks.append(self.clock())
            if not self.train:
                return marks[1] - marks[0], marks[1] - marks[0], 0.0
            return marks[1] - marks[0], marks[2] - marks[1], marks[3] - marks[2]

        return once

    def sample(self, choice: Choice) -> Sample:
        """The median of several runs, after one that is not counted."""
        once = self.replays(choice) if self.launch == "graph" else lambda: self.once(choice)
        once()
        times: list[tuple[float, float, float]] = []
        while len(times) < REPEATS and (len(times) < 2 or sum(map(sum, times)) < ENOUGH):
            times.append(once())
        forward, record, backward = (sorted(t)[len(t) // 2] for t in zip(*times, strict=True))
        return Sample(
            name_of(self.spec),
            choice.kernel,
            self.precision,
            self.launch,
            dict(self.axes),
            choice.rows,
            choice.share_rows,
            forward,
            record,
            backward,
        )
