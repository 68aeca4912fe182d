"""One option of running a sub-module."""

from dataclasses import dataclass

from foldfit.cost.memory import Bytes
from foldfit.plans import Choice


@dataclass(frozen=True)
class Option:
    """A choice with what it costs: bytes as in cost/memory.py, seconds forward and backward."""

    choice: Choice
    bytes: Bytes
    seconds: float
    back_seconds: float
    recordable: bool
    measured: bool = False
    """Whether its seconds come from measurements of this kernel."""
    clocks: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 0.0), (0.0, 0.0))
    """Seconds forward and backward of the device, and of the host that launches it; above is the longer of the two, where both count."""
    exposed: float = 0.0
    back_exposed: float = 0.0
    """Seconds, of those, of collectives between ranks, and of copies from the host and back that the computation waits for."""
