"""Seconds of a sub-module whose state tensors are on the host: its computation, and the copies of rows that this does not hide.

A pass over k slices is a pipeline of three stages, copy in I, computation C, copy out O: (I + C + O) / k until the first slice is
through, and the slowest stage for each of the others. As the executor runs it: runtime/windows.py.
"""

from foldfit.cost.devices import Device
from foldfit.cost.memory import Setting
from foldfit.cost.seconds import phase_seconds
from foldfit.plans import Choice
from foldfit.stacks.spec import Axis, Kernel, Phase, SubModuleSpec

SHARE = 0.85
"""Of the link's speed, what slices reach where both ways are busy, or where they are columns: 42 to 46 of 49 to 55 GB/s, on an H100."""

CALLS = 4
"""Kernels that take as long to launch as the copies and events of a slice of one tensor."""

Pass = tuple[Phase, Axis, int, set[Axis], set[Axis]]
"""Over all rows of one sample: what runs, over which axis, how many rows at a time, which tensors on the host it reads and writes."""


def passes(spec: SubModuleSpec, kernel: Kernel, choice: Choice) -> list[Pass]:
    away = choice.host.split()

    def on_host(*axes: Axis) -> set[Axis]:
        return {axis for axis in axes if axis[0] in away}

    update = kernel.update, spec.reads[0], choice.rows, on_host(*spec.reads, spec.writes), on_host(spec.writes)
    if not (spec.shares and kernel.share):
        return [update]
    return [(kernel.share, spec.shares, choice.share_rows, on_host(spec.shares), set()), update]


def away_seconds(
    spec: SubModuleSpec, kernel: Kernel, choice: Choice, setting: Setting, device: Device, precision: str, factor: float
) -> tuple[float, float]:
    """Forward over the whole batch; and those of them in which the computation waits for copies. `factor`: of the model's seconds of
    the same with every tensor on the device, what is known of them."""

    def link(axes: set[Axis]) -> float:
        return sum(setting.shapes.elements(name) for name, _ in axes) * setting.itemsize / (SHARE * device.host_link)

    total = exposed = 0.0
    for phase, axis, rows, read, written in passes(spec, kernel, choice):
        count = -(-setting.shapes.own(*axis) // rows)
        work = factor * phase_seconds(phase, spec, axis, rows, setting, device, precision).by("eager")[0]
        work += len(read) * count * CALLS * device.launch_seconds
        stages = link(read), work, link(written)
        through = (sum(stages) + (count - 1) * max(stages)) / count
        total += setting.batch * through
        exposed += setting.batch * (through - work)
    return total, exposed
