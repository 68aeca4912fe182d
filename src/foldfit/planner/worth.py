"""What `foldfit profile` measures, the most informative first."""

from collections.abc import Iterable
from dataclasses import dataclass

from foldfit.cost.devices import Device
from foldfit.cost.sample import name_of, used_axes
from foldfit.cost.sizes import Shapes, shapes_of
from foldfit.planner.options import Rows, kernel_options, setting_of
from foldfit.plans import Choice
from foldfit.problem import Problem
from foldfit.stacks.spec import SubModuleSpec

LONGEST = {"train": 0.05, "infer": 0.3}
"""Seconds of a run, by the model, that profiling still takes."""
PARTS = (1, 4, 16)
"""Numbers of slices; in between, seconds are interpolated."""


@dataclass(frozen=True)
class Task:
    """An option to measure."""

    problem: Problem
    shapes: Shapes
    sub: SubModuleSpec
    choice: Choice

    @property
    def identity(self) -> tuple[object, ...]:
        """As that of the sample it will be (cost/sample.py)."""
        axes = tuple(sorted(used_axes(self.sub, self.shapes.axes).items()))
        return (name_of(self.sub), self.choice.kernel, self.problem.precision), axes, self.choice.rows


def only(rows: int) -> Rows:
    return lambda total: (rows,)


def tasks(problems: Iterable[Problem], device: Device) -> list[Task]:
    """Of every sub-module by every kernel, whole and in slices: those that fit the memory and that the model gives less than
    LONGEST. Whole ones before slices, and a problem before those that come after it; what several problems have in common, once."""
    found: dict[tuple[object, ...], tuple[int, Task]] = {}
    for turn, problem in enumerate(problems):
        for stack in problem.stacks:
            spec, shapes = shapes_of(problem, stack)
            setting = setting_of(problem, shapes)
            # A graph takes its memory beside what the allocator keeps of a run before it.
            room = problem.memory / 2 - 4 * problem.itemsize * sum(shapes.elements(name) for name in shapes.axes)
            for sub in spec.sub_modules:
                total = shapes.own(*sub.reads[0])
                for i, rows in enumerate(dict.fromkeys(-(-total // part) for part in PARTS)):
                    for name in sub.kernels:
                        for option in kernel_options(sub, name, problem, setting, device, None, only(rows)):
                            fits = max(option.bytes.back, option.bytes.inter) <= room
                            seconds = option.seconds + (option.back_seconds if problem.mode == "train" else 0.0)
                            if fits and not option.choice.recompute and seconds < LONGEST[problem.mode]:
                                task = Task(problem, shapes, sub, option.choice)
                                found.setdefault(task.identity, (turn + 10 * i, task))
    return [task for _, task in sorted(found.values(), key=lambda each: each[0])]
