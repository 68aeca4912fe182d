"""Measures options on this device: one sub-module at a time, as the executor runs it."""

import contextlib
import gc
import time
from collections.abc import Callable

import torch

from foldfit.cost.sample import Sample, name_of, used_axes
from foldfit.cost.sizes import Shapes
from foldfit.model import SUB_MODULES
from foldfit.plans import Choice
from foldfit.problem import Problem
from foldfit.runtime import apply
from foldfit.runtime.apply import Call, Kept
from foldfit.runtime.dropout import drop_mask
from foldfit.runtime.executor import matmul_precision
from foldfit.runtime.graphs import stream_of
from foldfit.runtime.parameters import Gradients
from foldfit.runtime.trunk import DTYPES
from foldfit.stacks import SubModuleSpec

REPEATS, ENOUGH = 5, 0.03
"""Timed runs of an option, no more once they have taken so many seconds; the median counts."""


class Bench:
    """One sub-module with random state on the device."""

    def __init__(self, problem: Problem, shapes: Shapes, spec: SubModuleSpec) -> None:
        self.spec, self.train = spec, problem.mode == "train"
        self.precision, self.cuda = problem.precision, problem.device_type == "cuda"
        self.axes = used_axes(spec, shapes.axes)
        self.seed = torch.zeros((), dtype=torch.int64, device=problem.device_type)
        dtype, device = DTYPES[problem.precision], torch.device(problem.device_type)
        self.state = {n: torch.randn(1, *axes, shapes.channels[n], dtype=dtype, device=device) for n, axes in self.axes.items()}
        self.masks = {n: torch.ones(1, *axes, dtype=dtype, device=device) for n, axes in self.axes.items()}
        self.grads = {n: torch.randn_like(x) for n, x in self.state.items()} if self.train else {}
        self.module = SUB_MODULES[spec.kind](spec).to(device, dtype)
        self.gradients = Gradients(list(self.module.parameters()))
        self.graph: torch.cuda.CUDAGraph | None = None
        """The last one: its pool is the next one's, which may write over it."""

    def call(self, choice: Choice) -> Call:
        """A fresh one, its dropout mask drawn."""
        drop = None
        if self.train and self.spec.dropout:
            tensor, axis = self.spec.writes
            lengths = self.axes[tensor]
            drop = drop_mask(self.spec, (lengths[axis], lengths[1 - axis]), self.seed, (0,), self.masks[tensor])
        return Call(self.module, choice, self.masks, drop)

    def recorded(self, choice: Choice) -> bool:
        cost = self.spec.kernels[choice.kernel]["cuda" if self.cuda else "cpu"]
        return self.train and bool(cost.update.record) and self.precision in cost.recorded

    def forward(self, choice: Choice) -> None:
        apply.forward(self.call(choice), self.state, self.state[self.spec.writes[0]])

    def back(self, choice: Choice) -> None:
        """Recording, and going back."""
        version, kept = self.record(choice)
        del version
        apply.backward(self.call(choice), self.state, kept, self.grads, self.gradients)

    def record(self, choice: Choice) -> tuple[torch.Tensor, Kept | None]:
        return apply.record(self.call(choice), self.state)

    def parts(self, choice: Choice) -> list[Callable[[], None]]:
        """What is timed: a plain run, and where there is a backward, recording with it."""
        return [lambda: self.forward(choice), *([lambda: self.back(choice)] if self.recorded(choice) else [])]

    def stream(self) -> contextlib.AbstractContextManager:
        """The one of all captures, which the default one does not allow."""
        return torch.cuda.stream(stream_of(self.seed.device)) if self.cuda else contextlib.nullcontext()

    def clock(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def settle(self) -> None:
        """Updates upon updates would run away."""
        for x in (self.state[self.spec.writes[0]], *self.grads.values()):
            x.normal_()

    def launched(self, choice: Choice) -> list[float]:
        """Seconds until all of each part is launched, kernel by kernel."""
        out = []
        for part in self.parts(choice):
            start = self.clock()
            part()
            out.append(time.perf_counter() - start)
        self.clock()
        self.settle()
        return out

    def by_host(self, choice: Choice) -> list[float]:
        """The same, of several times the median."""
        times: list[list[float]] = []
        while len(times) < REPEATS and sum(map(sum, times)) < ENOUGH:
            times.append(self.launched(choice))
        return [sorted(part)[(len(part) - 1) // 2] for part in zip(*times, strict=True)]

    def on_device(self, choice: Choice) -> list[float]:
        """Seconds of each part as a CUDA graph, whose kernels do not wait for the host."""
        out = []
        for part in self.parts(choice):
            self.graph = captured(part, self.graph)
            out.append(repeated(self.graph.replay, self.clock))
        self.settle()
        return out

    def compile(self, choice: Choice) -> None:
        """Runs an option once."""
        with matmul_precision(self.precision), self.stream():
            self.launched(choice)

    def sample(self, choice: Choice) -> Sample:
        """Of one option, after a run that is not counted."""
        with matmul_precision(self.precision), self.stream():
            self.launched(choice)
            if self.cuda:
                host, device = self.by_host(choice), self.on_device(choice)
            else:
                host, device = [0.0, 0.0], [repeated(part, self.clock) for part in self.parts(choice)]
                self.settle()
        device, host = ([*x, x[0]][:2] for x in (device, host))  # a plain run alone: no backward
        return Sample(
            name_of(self.spec),
            choice.kernel,
            self.precision,
            self.axes,
            choice.rows,
            choice.share_rows,
            device[0],
            max(0.0, device[1] - device[0]),
            host[0],
            max(0.0, host[1] - host[0]),
        )


def repeated(run: Callable[[], None], clock: Callable[[], float]) -> float:
    """The median of several runs after a first one, which counts alone where it takes long."""
    times: list[float] = []
    while len(times) <= REPEATS and sum(times) < ENOUGH:
        start = clock()
        run()
        times.append(clock() - start)
    counted = sorted(times[1:] or times)
    return counted[(len(counted) - 1) // 2]


def captured(run: Callable[[], None], last: torch.cuda.CUDAGraph | None) -> torch.cuda.CUDAGraph:
    """As `torch.cuda.graph` does it, but for emptying the cache and collecting garbage before: with hundreds of options that
    would take longer than all else."""
    graph = torch.cuda.CUDAGraph()
    gc.disable()  # tensors of other streams must not be freed in a capture
    try:
        graph.capture_begin(*((last.pool(),) if last else ()))
        try:
            run()
        finally:
            graph.capture_end()
    finally:
        gc.enable()
    return graph


def release() -> None:
    """Gives back what the last sub-module held: graphs take memory of their own beside what is cached for other runs. On a CPU all
    went with the last reference."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
