"""Options whose ranks exchange channels: less on its way than all of what rows share where ranks are many, and no relay before."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import msgspec

from foldfit.cost.channels import channel_bytes, channel_seconds
from foldfit.cost.devices import Device
from foldfit.cost.memory import Setting
from foldfit.cost.seconds import Seconds
from foldfit.planner.option import Option
from foldfit.problem import Problem
from foldfit.stacks.spec import Kernel, SubModuleSpec


def channel_options(
    options: Iterable[Option], sub: SubModuleSpec, kernels: dict[str, Kernel], setting: Setting, device: Device, problem: Problem
) -> Iterator[Option]:
    """Of those of an inference with all rows at once: the same, with the copies that it takes."""
    if not sub.channels or problem.mode == "train":
        return
    total = setting.shapes.own(*sub.reads[0])
    for option in options:
        kernel, c = kernels[option.choice.kernel], option.choice
        if kernel.ends and (c.rows, c.host, c.piece_rows) == (total, "", 0):
            choice = msgspec.structs.replace(c, share_rows=total, channels=True)
            copies, _, _ = channel_seconds(sub, kernel, choice, setting, device, problem.precision)
            taken = Seconds(*option.clocks[0], *option.clocks[1]).plus(Seconds(copies, 0.0, 0.0, 0.0))
            seconds, back_seconds = taken.by(problem.launch)
            yield replace(
                option, choice=choice, bytes=channel_bytes(sub, kernel, choice, setting), seconds=seconds, back_seconds=back_seconds,
                recordable=False, clocks=taken.clocks,
            )  # fmt: skip


def fits_layout(option: Option, sub: SubModuleSpec, layout: dict[str, int]) -> bool:
    """Whether it is of ranks that have rows, or exchanges channels."""
    name, axis = sub.reads[0]
    return not sub.channels or option.choice.channels or layout[name] == axis
