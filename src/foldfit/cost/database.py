"""Measured seconds of one device, as `foldfit profile` found them: its samples, its file, and which file a plan stands on."""

import os
from collections.abc import Collection
from functools import lru_cache
from importlib import resources
from pathlib import Path
from statistics import fmean, geometric_mean

import msgspec

from foldfit.cost.devices import Device
from foldfit.cost.interpolate import Corrections
from foldfit.cost.links import Collective
from foldfit.cost.sample import Sample
from foldfit.errors import BadInput, NotSupported
from foldfit.plans import write_text

SCHEMA = 2

KERNELS = 3
"""Counts the generations of foldfit's own kernels: what was measured of an earlier one still corrects the model, but a plan on it says
that its costs are modelled."""


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One device's samples, and collectives between several of them. `runs`: whole runs, measured / the sum of their options; `launched`:
    of those whose kernels were launched one by one by a host that was slower than the device, / the sum of their options' host seconds."""

    schema: int = SCHEMA
    device: str
    versions: dict[str, str]
    kernels: int = 1
    """Their generation."""
    date: str
    samples: tuple[Sample, ...] = ()
    collectives: tuple[Collective, ...] = ()
    runs: dict[str, float] = {}
    launched: dict[str, float] = {}

    @property
    def factor(self) -> float:
        """What a whole run takes beyond the sum of its parts: the geometric mean over the runs measured."""
        return geometric_mean(self.runs.values()) if self.runs else 1.0

    @property
    def host_factor(self) -> float:
        """The same of the host: launches of a sub-module alone, each after a wait, are not those of a run that goes on."""
        return geometric_mean(self.launched.values()) if self.launched else self.factor

    @property
    def spread(self) -> float:
        """How far the runs measured are from their factor: the root of the mean square, relative."""
        return apart(self.runs.values())

    @property
    def host_spread(self) -> float:
        return apart(self.launched.values()) if self.launched else self.spread

    def save(self, path: str | os.PathLike[str]) -> None:
        """As JSON, a sample a line."""
        head = msgspec.json.encode(msgspec.structs.replace(self, samples=())).decode()
        rows = ",\n".join(msgspec.json.encode(s).decode() for s in self.samples)
        write_text(path, head.replace('"samples":[]', f'"samples":[\n{rows}\n]') + "\n")


def apart(ratios: Collection[float]) -> float:
    """From their geometric mean: the root of the mean square, relative."""
    return fmean((x / geometric_mean(ratios) - 1) ** 2 for x in ratios) ** 0.5 if ratios else 0.0


AGAIN = "delete it and run foldfit profile again, or give another --costs"


def load_costs(path: str | os.PathLike[str]) -> Costs:
    """Raises BadInput for a file that is no cost database, NotSupported for another schema."""
    try:
        data = Path(path).read_bytes()
        head = msgspec.json.decode(data)
        if isinstance(head, dict) and head.get("schema", SCHEMA) != SCHEMA:
            raise NotSupported(f"{os.fspath(path)} has cost schema {head['schema']!r}, this foldfit reads {SCHEMA}: {AGAIN}")
        costs = msgspec.json.decode(data, type=Costs)
    except OSError as error:
        raise BadInput(f"cannot read {os.fspath(path)}: {error.strerror}") from None
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise BadInput(f"{os.fspath(path)} is no cost database of foldfit: {error}; {AGAIN}") from None
    if any(not c.seconds > 0 or c.size < 1 or c.ranks < 2 for c in costs.collectives):
        raise BadInput(f"{os.fspath(path)} has collectives of no bytes, seconds or ranks: {AGAIN}")
    if any(not s.forward > 0 or not s.backward >= 0 for s in costs.samples) or any(
        not x > 0 for x in (costs.runs | costs.launched).values()
    ):
        raise BadInput(f"{os.fspath(path)} has seconds that are not positive: {AGAIN}")
    return costs


def user_file(device: str) -> Path:
    """Where `foldfit profile` keeps what it measured on this machine."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "foldfit" / f"{device.replace(' ', '-')}.json"


def shipped_file(device: str) -> Path:
    """Where the package has what was measured on such a device, if it has."""
    return Path(str(resources.files("foldfit.cost") / "measured" / f"{device.replace(' ', '-')}.json"))


def costs_file(device: Device) -> Path | None:
    """The database that the device names, else this machine's own, else the one that ships with foldfit; None: modelled."""
    if device.costs == "modelled":
        return None
    for path in (Path(device.costs),) if device.costs else (user_file(device.name), shipped_file(device.name)):
        if device.costs or path.is_file():
            return path
    return None


def find_costs(device: Device) -> Corrections | None:
    """What the device's measurements say, None where there are none. Raises BadInput for those of another device."""
    path = costs_file(device)
    return corrections(str(path), device.name) if path else None


def collectives_of(device: Device) -> tuple[Collective, ...]:
    """Those of the same database; none where the costs are modelled."""
    path = costs_file(device)
    return load_collectives(str(path)) if path else ()


@lru_cache
def load_collectives(path: str) -> tuple[Collective, ...]:
    return load_costs(path).collectives


@lru_cache
def corrections(path: str, device: str) -> Corrections:
    costs = load_costs(path)
    if costs.device != device:
        raise BadInput(f"{path} was measured on {costs.device}, the plan is for {device}: profile there, or plan with --costs modelled")
    factors, spreads = (costs.factor, costs.host_factor), (costs.spread, costs.host_spread)
    return Corrections(costs.samples, costs.kernels == KERNELS, factors, spreads)
