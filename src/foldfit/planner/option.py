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
    exposed: float = 0.0
    back_exposed: float = 0.0
    """Seconds, of those, of collectives between ranks."""
