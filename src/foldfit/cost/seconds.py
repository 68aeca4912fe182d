"""Seconds of running one sub-module by a choice, modelled, slice by slice: a roofline on the device, launches on the host.

On the device a phase takes FLOPs / (peak * MATMUL_SHARE) + bytes moved / (bandwidth * MOVE_SHARE) + kernels * the gap between two:
unfused kernels do not overlap arithmetic with traffic. Williams et al. 2009, "Roofline", with the sum in place of the maximum.
Meanwhile the host launches the kernels to come, so that what is launched one by one takes the longer of the two.
"""

from typing import NamedTuple

from foldfit.cost.devices import Device
from foldfit.cost.expression import matmul_flops, nbytes
from foldfit.cost.memory import Setting
from foldfit.cost.sizes import sizes_of
from foldfit.plans import Choice
from foldfit.stacks.spec import Axis, Kernel, Phase, SubModuleSpec

MATMUL_SHARE = 0.4
"""Of the peak FLOP/s, what matrix products of these shapes reach. Fitted, with the other share and the gap between kernels, to
228 options measured on an H200: 26 % off on average."""
MOVE_SHARE = 0.5
"""Of the bandwidth, what elementwise kernels and reductions reach."""


class Seconds(NamedTuple):
    """Forward and backward: of the device, its kernels waiting in line, and of the host that launches them."""

    forward: float
    backward: float
    host_forward: float
    host_backward: float

    def plus(self, other: "Seconds", times: float = 1.0) -> "Seconds":
        return Seconds(*(a + times * b for a, b in zip(self, other, strict=True)))

    def minus(self, other: "Seconds") -> "Seconds":
        return self.plus(other, -1.0)

    @property
    def again(self) -> "Seconds":
        """Forward's in backward's place: factors of a forward that runs there."""
        return Seconds(self.forward, self.forward, self.host_forward, self.host_forward)

    def scaled(self, factors: "Seconds") -> "Seconds":
        return Seconds(*(a * b for a, b in zip(self, factors, strict=True)))

    @property
    def clocks(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """(forward, backward) of the device and of the host."""
        return (self.forward, self.backward), (self.host_forward, self.host_backward)

    def by(self, launch: str) -> tuple[float, float]:
        """(forward, backward) by a launch: a graph's takes the device alone."""
        if launch == "graph":
            return self.forward, self.backward
        return max(self.forward, self.host_forward), max(self.backward, self.host_backward)


NOTHING = Seconds(0.0, 0.0, 0.0, 0.0)


def flops(phase: Phase, spec: SubModuleSpec, axis: Axis, setting: Setting, rows: int) -> tuple[int, int]:
    """Of forward and of backward, for one sample."""
    sizes = sizes_of(spec, axis, setting.shapes, rows)
    forward = sum(matmul_flops(m, sizes) for m in phase.matmuls)
    back = 2 * forward if phase.back_matmuls is None else sum(matmul_flops(m, sizes) for m in phase.back_matmuls)
    for name, axes in phase.biases:
        parameter = spec.parameters[name]
        back += matmul_flops(f"{axes} {parameter.dims}", sizes) if parameter else 0
    return forward, back


def call_seconds(phase: Phase, spec: SubModuleSpec, axis: Axis, setting: Setting, rows: int, device: Device, precision: str) -> Seconds:
    """Of one call on `rows` rows."""
    sizes = sizes_of(spec, axis, setting.shapes, rows)
    peak = device.peak(precision) * MATMUL_SHARE
    bandwidth = device.bandwidth * MOVE_SHARE
    f, b = flops(phase, spec, axis, setting, rows)
    around = nbytes("4 r n c", sizes, setting.itemsize)  # what the executor reads and adds
    moves = nbytes(phase.moves, sizes, setting.itemsize) + around
    back = nbytes(phase.back_moves, sizes, setting.itemsize) + around
    calls, back_calls = phase.calls + 2, phase.back_calls + 4
    return Seconds(
        f / peak + moves / bandwidth + calls * device.gap_seconds,
        b / peak + back / bandwidth + back_calls * device.gap_seconds,
        calls * device.launch_seconds,
        back_calls * device.launch_seconds,
    )


def phase_seconds(phase: Phase, spec: SubModuleSpec, axis: Axis, rows: int, setting: Setting, device: Device, precision: str) -> Seconds:
    """Of all slices of one sample."""
    total = setting.shapes.own(*axis)
    count, rest = divmod(total, min(rows, total))
    out = NOTHING.plus(call_seconds(phase, spec, axis, setting, min(rows, total), device, precision), count)
    return out.plus(call_seconds(phase, spec, axis, setting, rest, device, precision)) if rest else out


def sub_module_seconds(spec: SubModuleSpec, kernel: Kernel, choice: Choice, setting: Setting, device: Device, precision: str) -> Seconds:
    """Over the whole batch; the backward of a choice that recomputes has the forward in it again."""
    out = phase_seconds(kernel.update, spec, spec.reads[0], choice.rows, setting, device, precision)
    again = out
    if spec.shares and kernel.share:
        share = phase_seconds(kernel.share, spec, spec.shares, choice.share_rows, setting, device, precision)
        # Of a choice that recomputes: the shared tensors, before the slices that record them, and those again.
        out, again = out.plus(share), again.plus(share, 2)
    if choice.recompute:
        out = Seconds(out.forward, out.backward + again.forward, out.host_forward, out.host_backward + again.host_forward)
    return NOTHING.plus(out, setting.batch)


def updating(spec: SubModuleSpec, kernel: Kernel, choice: Choice, setting: Setting, device: Device, precision: str) -> float:
    """Of a forward's seconds on the device the part in which it updates: the rest makes what all rows share."""
    if not (spec.shares and kernel.share):
        return 1.0
    update = phase_seconds(kernel.update, spec, spec.reads[0], choice.rows, setting, device, precision).forward
    share = phase_seconds(kernel.share, spec, spec.shares, choice.share_rows, setting, device, precision).forward
    return update / (update + share)
