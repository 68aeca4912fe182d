"""Measured seconds: what `foldfit profile` found on a device, and what that says of options nobody measured.

A sample is one option of one sub-module at one size. Another option of the same sub-module, kernel and precision is taken
to miss the model (seconds.py) by the same factor: the factors of the nearest samples, by the logarithms of the sizes.
"""

import os
from collections.abc import Iterable
from functools import lru_cache
from importlib import resources
from math import exp, log, log2
from pathlib import Path

import msgspec

from foldfit.cost.devices import Device
from foldfit.cost.links import Collective
from foldfit.cost.memory import Setting
from foldfit.cost.seconds import sub_module_seconds
from foldfit.cost.sizes import Shapes
from foldfit.errors import BadInput, NotSupported
from foldfit.plans import Choice, write_text
from foldfit.problem import ITEMSIZE
from foldfit.stacks.spec import SubModuleSpec

SCHEMA = 1
NEAREST = 3
"""Samples that speak for an option."""


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of one option over all its slices: run plainly, recorded, and going back with everything kept."""

    sub_module: str
    kernel: str
    precision: str
    launch: str
    """"eager" or "graph"."""
    axes: dict[str, tuple[int, ...]]
    """State tensor -> its lengths, without channels."""
    rows: int
    share_rows: int
    forward: float
    record: float
    backward: float

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.sub_module, self.kernel, self.precision, self.launch


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One device's samples, and collectives between several of them. `runs`: whole runs, measured / the sum of their options."""

    schema: int = SCHEMA
    device: str
    versions: dict[str, str]
    date: str
    samples: tuple[Sample, ...] = ()
    collectives: tuple[Collective, ...] = ()
    runs: dict[str, float] = {}

    @property
    def factor(self) -> float:
        """What a whole run takes beyond the sum of its parts: the geometric mean over the runs measured."""
        return exp(sum(map(log, self.runs.values())) / len(self.runs)) if self.runs else 1.0

    def save(self, path: str | os.PathLike[str]) -> None:
        """As JSON, a sample a line."""
        head = msgspec.json.encode(msgspec.structs.replace(self, samples=())).decode()
        rows = ",\n".join(msgspec.json.encode(s).decode() for s in self.samples)
        write_text(path, head.replace('"samples":[]', f'"samples":[\n{rows}\n]') + "\n")


def name_of(sub: SubModuleSpec) -> str:
    """A sub-module's name with the widths that its cost depends on."""
    return sub.name + "".join(f" {k}={v}" for k, v in sorted(sub.widths.items()))


def load_costs(path: str | os.PathLike[str]) -> Costs:
    """Raises BadInput for a file that is no cost database, NotSupported for another schema."""
    try:
        data = Path(path).read_bytes()
        head = msgspec.json.decode(data)
        if isinstance(head, dict) and head.get("schema", SCHEMA) != SCHEMA:
            raise NotSupported(f"{os.fspath(path)} has cost schema {head['schema']!r}, this foldfit reads {SCHEMA}: profile again")
        costs = msgspec.json.decode(data, type=Costs)
    except OSError as error:
        raise BadInput(f"cannot read {os.fspath(path)}: {error.strerror}") from None
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise BadInput(f"{os.fspath(path)} is no cost database of foldfit: {error}; run foldfit profile again") from None
    if any(not c.seconds > 0 or c.size < 1 or c.ranks < 2 for c in costs.collectives):
        raise BadInput(f"{os.fspath(path)} has collectives of no bytes, seconds or ranks: run foldfit profile --gpus again")
    if any(not s.forward > 0 or not s.record > 0 or not s.backward >= 0 for s in costs.samples):
        raise BadInput(f"{os.fspath(path)} has seconds that are not positive: run foldfit profile again")
    return costs


def user_file(device: str) -> Path:
    """Where `foldfit profile` keeps what it measured on this machine."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "foldfit" / f"{device.replace(' ', '-')}.json"


def find_costs(device: Device) -> "Corrections | None":
    """The database that the device names, else this machine's own, else the one that ships with foldfit; None: modelled."""
    path = costs_file(device)
    return corrections(str(path), device.name) if path else None


def costs_file(device: Device) -> Path | None:
    if device.costs == "modelled":
        return None
    shipped = resources.files("foldfit.cost") / "measured" / f"{device.name.replace(' ', '-')}.json"
    for path in (Path(device.costs),) if device.costs else (user_file(device.name), Path(str(shipped))):
        if device.costs or path.is_file():
            return path
    return None


def collectives_of(device: Device) -> tuple[Collective, ...]:
    """Those of the same database; none where the costs are modelled."""
    path = costs_file(device)
    return load_collectives(str(path)) if path else ()


@lru_cache
def load_collectives(path: str) -> tuple[Collective, ...]:
    return load_costs(path).collectives


@lru_cache
def corrections(path: str, device: str) -> "Corrections":
    costs = load_costs(path)
    if costs.device != device:
        raise BadInput(f"{path} was measured on {costs.device}, the plan is for {device}: profile there, or plan with --costs modelled")
    return Corrections(costs.samples, costs.factor)


class Corrections:
    """How far the model is from the samples: factors by sub-module, kernel and precision."""

    def __init__(self, samples: Iterable[Sample], factor: float = 1.0) -> None:
        self.factor = factor
        self.samples: dict[tuple[str, str, str, str], list[Sample]] = {}
        for sample in samples:
            self.samples.setdefault(sample.key, []).append(sample)
        self.factors: dict[tuple[str, ...], list[tuple[tuple[float, ...], tuple[float, float]]]] = {}

    def of(
        self, sub: SubModuleSpec, kernel: str, precision: str, launch: str, device: Device
    ) -> list[tuple[tuple[float, ...], tuple[float, float]]]:
        """(where a sample is, its factors forward and backward) of all samples of a sub-module by a kernel."""
        key = (name_of(sub), kernel, precision, launch)
        if key not in self.factors:
            self.factors[key] = [self.measure(sub, s, device) for s in self.samples.get(key, ())]
        return self.factors[key]

    def measure(self, sub: SubModuleSpec, s: Sample, device: Device) -> tuple[tuple[float, ...], tuple[float, float]]:
        setting = Setting(Shapes(s.axes, sub_channels(sub)), ITEMSIZE[s.precision])
        choice = Choice(s.kernel, s.rows, s.share_rows)
        cost = sub.kernels[s.kernel]["cpu" if device.name == "cpu" else "cuda"]
        forward, backward = sub_module_seconds(sub, cost, choice, setting, device, s.precision)
        return place(sub, s.axes, s.rows), (s.forward / forward, (s.backward + s.record - s.forward) / max(backward, 1e-12))

    def seconds(
        self,
        sub: SubModuleSpec,
        choice: Choice,
        setting: Setting,
        precision: str,
        launch: str,
        device: Device,
        modelled: tuple[float, float],
    ) -> tuple[float, float] | None:
        """(forward, backward) of an option that keeps; None where its kernel was never measured on this sub-module.
        Recording's surplus over a plain run is in backward."""
        known = self.of(sub, choice.kernel, precision, launch, device)
        if not known:
            return None
        here = place(sub, setting.shapes.axes, choice.rows)
        near = sorted((sum((a - b) ** 2 for a, b in zip(here, there, strict=True)), factors) for there, factors in known)[:NEAREST]
        if near[0][0] == 0:
            near = near[:1]
        weights = [1 / max(distance, 1e-9) for distance, _ in near]
        logs = [sum(w * log(max(f[i], 1e-9)) for w, (_, f) in zip(weights, near, strict=True)) / sum(weights) for i in (0, 1)]
        return self.factor * modelled[0] * exp(logs[0]), self.factor * modelled[1] * exp(logs[1])

    def caution(self, sub: SubModuleSpec, precision: str, launch: str, device: Device) -> float:
        """For a kernel that nobody measured: the model's largest miss on this sub-module, so that no kernel is chosen for
        being unknown."""
        known = [f for kernel in sub.kernels for _, f in self.of(sub, kernel, precision, launch, device)]
        return self.factor * max((x for f in known for x in f), default=1.0)


def place(sub: SubModuleSpec, axes: dict[str, tuple[int, ...]], rows: int) -> tuple[float, ...]:
    """Where an option stands among the sizes: logarithms of the lengths it maps over and of its rows."""
    lengths = axes[sub.reads[0][0]]
    return (*(log2(x) for x in lengths), log2(min(rows, lengths[sub.reads[0][1]])))


def sub_channels(sub: SubModuleSpec) -> dict[str, int]:
    """Channels of the tensors that a sub-module reads and writes."""
    c, z = sub.widths["c"], sub.widths.get("z", sub.widths["c"])
    pairs = {name: z for name, _ in (*sub.reads, sub.writes, *((sub.shares,) if sub.shares else ()))}
    return pairs | {sub.reads[0][0]: c}
