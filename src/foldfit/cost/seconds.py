"""Seconds of running one sub-module by a choice, modelled: a roofline with launches, slice by slice.

A phase takes FLOPs / (peak * MATMUL_SHARE) + bytes moved / (bandwidth * MOVE_SHARE) + kernels * launch latency: unfused
kernels do not overlap arithmetic with traffic. Williams et al. 2009, "Roofline", with the sum in place of the maximum.
"""

from foldfit.cost.devices import Device
from foldfit.cost.expression import matmul_flops, nbytes
from foldfit.cost.memory import Setting
from foldfit.cost.sizes import sizes_of
from foldfit.plans import Choice
from foldfit.stacks.spec import Axis, Kernel, Phase, SubModuleSpec

MATMUL_SHARE = 0.4
"""Of the peak FLOP/s, what matrix products of these shapes reach. Fitted, with the other share and the latency of a graph, to
the 228 options measured on an H200 (cost/measured/): 26 % off on average."""
MOVE_SHARE = 0.5
"""Of the bandwidth, what elementwise kernels and reductions reach."""


def flops(phase: Phase, spec: SubModuleSpec, axis: Axis, setting: Setting, rows: int) -> tuple[int, int]:
    """Of forward and of backward, for one sample."""
    sizes = sizes_of(spec, axis, setting.shapes, rows)
    forward = sum(matmul_flops(m, sizes) for m in phase.matmuls)
    back = 2 * forward if phase.back_matmuls is None else sum(matmul_flops(m, sizes) for m in phase.back_matmuls)
    for name, axes in phase.biases:
        parameter = spec.parameters[name]
        back += matmul_flops(f"{axes} {parameter.dims}", sizes) if parameter else 0
    return forward, back


def call_seconds(
    phase: Phase, spec: SubModuleSpec, axis: Axis, setting: Setting, rows: int, device: Device, precision: str
) -> tuple[float, float]:
    """Of one call on `rows` rows, forward and backward."""
    sizes = sizes_of(spec, axis, setting.shapes, rows)
    peak = device.peak(precision) * MATMUL_SHARE
    bandwidth = device.bandwidth * MOVE_SHARE
    f, b = flops(phase, spec, axis, setting, rows)
    moves = nbytes(phase.moves, sizes, setting.itemsize) + nbytes("4 r n c", sizes, setting.itemsize)
    back = nbytes(phase.back_moves, sizes, setting.itemsize) + nbytes("4 r n c", sizes, setting.itemsize)
    return (
        f / peak + moves / bandwidth + (phase.calls + 2) * device.launch_seconds,
        b / peak + back / bandwidth + (phase.back_calls + 4) * device.launch_seconds,
    )


def phase_seconds(
    phase: Phase, spec: SubModuleSpec, axis: Axis, rows: int, setting: Setting, device: Device, precision: str
) -> tuple[float, float]:
    """Of all slices of one sample, forward and backward."""
    total = setting.shapes.own(*axis)
    count, rest = divmod(total, min(rows, total))
    forward, back = (count * t for t in call_seconds(phase, spec, axis, setting, min(rows, total), device, precision))
    if rest:
        f, b = call_seconds(phase, spec, axis, setting, rest, device, precision)
        forward, back = forward + f, back + b
    return forward, back


def sub_module_seconds(
    spec: SubModuleSpec, kernel: Kernel, choice: Choice, setting: Setting, device: Device, precision: str
) -> tuple[float, float]:
    """(forward, backward) over the whole batch; the backward of a choice that recomputes has the forward in it again."""
    forward, back = phase_seconds(kernel.update, spec, spec.reads[0], choice.rows, setting, device, precision)
    if spec.shares and kernel.share:
        f, b = phase_seconds(kernel.share, spec, spec.shares, choice.share_rows, setting, device, precision)
        again = f if choice.recompute else 0.0  # the shared tensors, before the slices that record them
        forward, back = forward + f, back + b + again
    if choice.recompute:
        back += forward
    return setting.batch * forward, setting.batch * back
