"""What samples say of options nobody measured, and how far off they may be.

Another option of the same sub-module, kernel and precision is taken to miss the model (seconds.py) by the same factor: the factors
of the nearest samples, by the logarithms of the sizes. The error stated is the database's own: that of samples left out and
predicted by the rest.
"""

from collections.abc import Iterable
from math import exp, log, log2
from statistics import median

from foldfit.cost.devices import Device
from foldfit.cost.memory import Setting
from foldfit.cost.sample import Sample, name_of, sub_channels
from foldfit.cost.seconds import Seconds, sub_module_seconds
from foldfit.cost.sizes import Shapes
from foldfit.plans import Choice
from foldfit.problem import ITEMSIZE
from foldfit.stacks.spec import SubModuleSpec

NEAREST = 3
"""Samples that speak for an option."""

Place = tuple[float, ...]
Point = tuple[Place, Seconds]
"""Where a sample is, and by which factors it misses the model; 0 where it was not measured."""
Key = tuple[str, str, str]


class Corrections:
    """How far the model is from the samples: factors by sub-module, kernel and precision."""

    def __init__(self, samples: Iterable[Sample], factor: float = 1.0) -> None:
        self.factor = factor
        """What a whole run takes beyond the sum of its parts."""
        self.samples: dict[Key, list[Sample]] = {}
        for sample in samples:
            self.samples.setdefault(sample.key, []).append(sample)
        self.points: dict[Key, list[Point]] = {}
        self.known_errors: dict[Key, Errors] = {}

    def of(self, sub: SubModuleSpec, kernel: str, precision: str, device: Device) -> list[Point]:
        """Of all samples of a sub-module by a kernel."""
        key = (name_of(sub), kernel, precision)
        if key not in self.points:
            self.points[key] = [(place(sub, s.axes, s.rows), missed(sub, s, device)) for s in self.samples.get(key, ())]
        return self.points[key]

    def knows(self, sub: SubModuleSpec, kernel: str, precision: str, launch: str, device: Device) -> bool:
        """Whether a sub-module was measured by a kernel, and launching it where that counts."""
        known = self.of(sub, kernel, precision, device)
        return any(f.forward and (f.host_forward or launch == "graph" or device.name == "cpu") for _, f in known)

    def factors(
        self, sub: SubModuleSpec, choice: Choice, axes: dict[str, tuple[int, ...]], precision: str, device: Device
    ) -> Seconds | None:
        """Of an option that keeps; None where its kernel was never measured on this sub-module."""
        known = self.of(sub, choice.kernel, precision, device)
        return Seconds(*(self.factor * f for f in blended(place(sub, axes, choice.rows), known))) if known else None

    def caution(self, sub: SubModuleSpec, precision: str, device: Device) -> Seconds:
        """For a kernel that nobody measured: the model's largest miss on this sub-module, so that no kernel is chosen for
        being unknown."""
        known = [factors for kernel in sub.kernels for _, factors in self.of(sub, kernel, precision, device)]
        return Seconds(*(self.factor * (max((f[i] for f in known), default=0.0) or 1.0) for i in range(4)))

    def errors(self, sub: SubModuleSpec, kernel: str, precision: str, device: Device) -> "Errors":
        """How well the samples of a sub-module by a kernel predict one another; nothing known where there are none."""
        key = (name_of(sub), kernel, precision)
        if key not in self.known_errors:
            points = self.of(sub, kernel, precision, device)
            self.known_errors[key] = errors_of(list(zip((s.size for s in self.samples.get(key, ())), points, strict=True)))
        return self.known_errors[key]


def missed(sub: SubModuleSpec, s: Sample, device: Device) -> Seconds:
    """Measured / modelled of one sample."""
    setting = Setting(Shapes(s.axes, sub_channels(sub)), ITEMSIZE[s.precision])
    cost = sub.kernels[s.kernel]["cpu" if device.name == "cpu" else "cuda"]
    modelled = sub_module_seconds(sub, cost, Choice(s.kernel, s.rows, s.share_rows), setting, device, s.precision)
    return Seconds(*(a / b if b else 0.0 for a, b in zip(s.seconds, modelled, strict=True)))


def place(sub: SubModuleSpec, axes: dict[str, tuple[int, ...]], rows: int) -> Place:
    """Where an option stands among the sizes: logarithms of the lengths it maps over and of its rows."""
    lengths = axes[sub.reads[0][0]]
    return (*(log2(x) for x in lengths), log2(min(rows, lengths[sub.reads[0][1]])))


def blended(here: Place, known: list[Point]) -> Seconds:
    """The factors of the nearest points by their inverse squared distances; a sample that has no backward has nothing to say of it:
    where none has, it is off as forward is."""
    near = sorted((sum((a - b) ** 2 for a, b in zip(here, there, strict=True)), factors) for there, factors in known)
    out: list[float] = []
    for i in range(4):
        some = [(distance, factors[i]) for distance, factors in near if factors[i] > 0][:NEAREST]
        if not some:
            out.append(out[i - 1] if i % 2 else 1.0)
        elif some[0][0] == 0:
            out.append(some[0][1])
        else:
            weights = [1 / distance for distance, _ in some]
            out.append(exp(sum(w * log(f) for w, (_, f) in zip(weights, some, strict=True)) / sum(weights)))
    return Seconds(*out)


class Errors:
    """Relative errors of a group's samples, each predicted without itself (`slices`: the others of its size stay), and each
    without all of its size (`sizes`); of forward and backward on the device."""

    def __init__(self, slices: list[float], sizes: list[float], measured: frozenset[object]) -> None:
        self.slices, self.sizes = slices, sizes
        self.measured = measured
        """The sizes that there are samples of."""

    def of(self, here: Place, known: list[Point], same_size: bool) -> float | None:
        """Of an option: 0 where it was measured, the median error where not, None where nothing is known."""
        if any(there == here for there, _ in known):
            return 0.0
        found = self.slices if same_size else self.sizes
        return median(found) if found else None


def errors_of(points: list[tuple[object, Point]]) -> Errors:
    slices: list[float] = []
    sizes: list[float] = []
    for i, (size, (here, factors)) in enumerate(points):
        if any(s == size for j, (s, _) in enumerate(points) if j != i):
            slices += misses(factors, blended(here, [p for j, (_, p) in enumerate(points) if j != i]))
        others = [p for s, p in points if s != size]
        if others:
            sizes += misses(factors, blended(here, others))
    return Errors(slices, sizes, frozenset(size for size, _ in points))


def misses(found: Seconds, predicted: Seconds) -> list[float]:
    return [abs(p / f - 1) for f, p in zip(found[:2], predicted[:2], strict=True) if f > 0]
