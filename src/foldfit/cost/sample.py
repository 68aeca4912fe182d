"""One measured option of one sub-module at one size."""

import msgspec

from foldfit.cost.seconds import Seconds
from foldfit.stacks.spec import SubModuleSpec


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds over all slices. `forward`: a plain run; `backward`: recording and going back with everything kept, less the plain
    run, 0 where none was measured: both of the device, kernels waiting in line. `host_...`: of the host that launches them."""

    sub_module: str
    kernel: str
    precision: str
    axes: dict[str, tuple[int, ...]]
    """State tensor -> its lengths, without channels; of those that the sub-module uses."""
    rows: int
    share_rows: int
    forward: float
    backward: float = 0.0
    host_forward: float = 0.0
    host_backward: float = 0.0

    @property
    def key(self) -> tuple[str, str, str]:
        return self.sub_module, self.kernel, self.precision

    @property
    def size(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        return tuple(sorted(self.axes.items()))

    @property
    def identity(self) -> tuple[object, ...]:
        """No two samples of a database have the same."""
        return self.key, self.size, self.rows

    @property
    def seconds(self) -> Seconds:
        return Seconds(self.forward, self.backward, self.host_forward, self.host_backward)


def name_of(sub: SubModuleSpec) -> str:
    """A sub-module's name and kind with the widths that its cost depends on: the triangle updates of all stacks are one."""
    return f"{sub.name} {sub.kind}" + "".join(f" {k}={v}" for k, v in sorted(sub.widths.items()))


def used_axes(sub: SubModuleSpec, axes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Those of the tensors that a sub-module reads, writes or shares."""
    used = {name for name, _ in (*sub.reads, sub.writes, *((sub.shares,) if sub.shares else ()))}
    return {name: lengths for name, lengths in axes.items() if name in used}


def sub_channels(sub: SubModuleSpec) -> dict[str, int]:
    """Channels of the tensors that a sub-module reads and writes."""
    c, z = sub.widths["c"], sub.widths.get("z", sub.widths["c"])
    pairs = {name: z for name, _ in (*sub.reads, sub.writes, *((sub.shares,) if sub.shares else ()))}
    return pairs | {sub.reads[0][0]: c}
