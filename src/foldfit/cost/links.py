"""Measured collectives: what `foldfit profile --gpus N` found between the devices of this machine.

Another size or number of ranks is taken to miss the model (collectives.py) by the same factor: between two measured sizes by
the logarithm of the size, beyond them as at the last one, and as for the number of ranks that is nearest.
"""

from collections.abc import Callable
from functools import lru_cache
from math import exp, log

import msgspec

from foldfit.cost.devices import Device

Model = Callable[[str, Device, int, int], float]


class Collective(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of one collective, on CUDA of the device: `size` bytes as in cost/collectives.py."""

    name: str
    ranks: int
    size: int
    seconds: float


def factor_of(measured: tuple[Collective, ...], name: str, device: Device, ranks: int, size: int, model: Model) -> float:
    """Measured seconds / the model's; 1 where nothing of that collective was measured."""
    known = curve(name, ranks, measured)
    if not known:
        return 1.0
    factors = [(log(c.size), log(c.seconds / model(name, device, c.ranks, c.size))) for c in known]
    at = log(max(size, 1))
    if at <= factors[0][0]:
        return exp(factors[0][1])
    for (a, low), (b, high) in zip(factors, factors[1:], strict=False):
        if at <= b:
            return exp(low + (high - low) * (at - a) / (b - a))
    return exp(factors[-1][1])


@lru_cache
def curve(name: str, ranks: int, known: tuple[Collective, ...]) -> tuple[Collective, ...]:
    """By size, those of the number of ranks that is nearest, of two the larger."""
    mine = [c for c in known if c.name == name]
    if not mine:
        return ()
    nearest = min({c.ranks for c in mine}, key=lambda n: (abs(log(n / ranks)), -n))
    return tuple(sorted((c for c in mine if c.ranks == nearest), key=lambda c: c.size))
