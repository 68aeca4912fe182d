"""What samples say of options nobody measured, and how far off they may be.

The samples of a sub-module by a kernel in a precision are fitted by the model (seconds.py): how fast the device's arithmetic, its memory
and its launches are as that kernel finds them, forward and backward. Another option then misses this fit by the factors of the nearest
samples, by the logarithms of the sizes. The error stated is the samples' own: each is left out, and predicted by the rest.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import combinations
from math import exp, log, log2
from statistics import median

import numpy as np

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
PULL = 0.1
"""How much the fit wants arithmetic, memory and launches to be off alike: of few samples it can say little."""

SPEAKS_FOR = {"fp16": "bf16"}
"""Where a kernel was never measured in a precision, the one whose samples are asked: as many bytes, and as fast products."""

Place = tuple[float, ...]
Speeds = tuple[float, float, float]
"""By how much arithmetic, memory and launches are slower than the device table says."""
AS_SAID: Speeds = (1.0, 1.0, 1.0)


def slowed(device: Device, speeds: Speeds) -> Device:
    arithmetic, memory, launches = (max(x, 1e-9) for x in speeds)
    peaks = {precision: peak / arithmetic for precision, peak in device.peaks.items()}
    return replace(device, peaks=peaks, bandwidth=device.bandwidth / memory, gap_seconds=device.gap_seconds * launches)


class Group:
    """The samples of one sub-module by one kernel in one precision."""

    def __init__(self, sub: SubModuleSpec, samples: Sequence[Sample], device: Device) -> None:
        self.sub, self.samples, self.device = sub, samples, device
        self.places = [place(sub, s.axes, s.rows) for s in samples]
        alone = [slowed(device, tuple(float(i == j) for j in range(3))) for i in range(3)]  # type: ignore[arg-type]
        each = [[modelled_sample(sub, s, one) for one in alone] for s in samples]
        self.terms = [np.array([[m[way] for m in some] for some in each]) for way in (0, 1)]
        """[samples, 3] forward, and backward: seconds of arithmetic, memory and launches, the others being free."""
        self.hosts = [modelled_sample(sub, s, device) for s in samples]

    def speeds(self, way: int, by: Sequence[int]) -> Speeds:
        """As the samples `by` find the device, forward (0) or backward (1)."""
        some = [i for i in by if self.samples[i].seconds[way] > 0]
        return fitted(self.terms[way][some], np.array([self.samples[i].seconds[way] for i in some])) if some else AS_SAID

    @cached_property
    def devices(self) -> tuple[Device, Device]:
        """The device as it is forward and backward."""
        forward, backward = (self.speeds(way, range(len(self.samples))) for way in (0, 1))
        return slowed(self.device, forward), slowed(self.device, backward if any(s.backward for s in self.samples) else forward)

    @cached_property
    def points(self) -> list[tuple[Place, Seconds]]:
        """Where each sample is, and by which factors the fit misses it; 0 where it was not measured."""
        fits = [self.speeds(way, range(len(self.samples))) for way in (0, 1)]
        return [(p, self.missed(i, fits)) for i, p in enumerate(self.places)]

    def missed(self, i: int, fits: Sequence[Speeds]) -> Seconds:
        s, host = self.samples[i].seconds, self.hosts[i]
        modelled = (*(float(self.terms[way][i] @ fits[way]) for way in (0, 1)), host.host_forward, host.host_backward)
        return Seconds(*(a / b if b else 0.0 for a, b in zip(s, modelled, strict=True)))

    @cached_property
    def sizes(self) -> frozenset[object]:
        return frozenset(s.size for s in self.samples)

    @cached_property
    def slices_errors(self) -> list[float]:
        """Of samples predicted by all others, where some of those are of its size."""
        return [
            e
            for i, s in enumerate(self.samples)
            if self.count(s.size) > 1
            for e in self.errors(i, [j for j in range(len(self.samples)) if j != i])
        ]

    @cached_property
    def sizes_errors(self) -> list[float]:
        """Of samples predicted by those of other sizes."""
        return [e for i, s in enumerate(self.samples) for e in self.errors(i, [j for j, o in enumerate(self.samples) if o.size != s.size])]

    def count(self, size: object) -> int:
        return sum(s.size == size for s in self.samples)

    def errors(self, i: int, by: list[int]) -> list[float]:
        """Of a sample's forward and backward, relative, as the samples `by` predict them."""
        if not by:
            return []
        fits = [self.speeds(way, by) for way in (0, 1)]
        factors = blended(self.places[i], [(self.places[j], self.missed(j, fits)) for j in by])
        found = self.missed(i, fits)
        return [abs(p / f - 1) for f, p in zip(found[:2], factors[:2], strict=True) if f > 0]


class Corrections:
    """How far the model is from the samples: groups by sub-module, kernel and precision. What is not known of fp16 is asked of bf16; a
    plan on such costs still says that they are modelled."""

    def __init__(
        self,
        samples: Iterable[Sample],
        current: bool = True,
        factors: tuple[float, float] = (1.0, 1.0),
        spreads: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.current = current
        """Whether the kernels measured are those of this foldfit."""
        self.factors, self.spreads = (factors[0], factors[0], factors[1], factors[1]), spreads
        """What a whole run takes beyond the sum of its parts, by the device's clock and by the host's, and how far from that single runs
        were."""
        self.samples: dict[tuple[str, str, str], list[Sample]] = {}
        for sample in samples:
            self.samples.setdefault(sample.key, []).append(sample)
        self.groups: dict[tuple[str, str, str], Group] = {}

    def of(self, sub: SubModuleSpec, kernel: str, precision: str, device: Device) -> Group:
        key = (name_of(sub), kernel, precision)
        if key not in self.groups:
            asked = key if key in self.samples else (*key[:2], SPEAKS_FOR.get(precision, precision))
            self.groups[key] = Group(sub, self.samples.get(asked, ()), device)
        return self.groups[key]

    def knows(self, sub: SubModuleSpec, kernel: str, precision: str, launch: str, device: Device) -> bool:
        """Whether a sub-module was measured by a kernel as it is now, and launching it where that counts."""
        samples = self.samples.get((name_of(sub), kernel, precision), ()) if self.current else ()
        return any(s.host_forward or launch == "graph" or device.name == "cpu" for s in samples)

    def seen(
        self, sub: SubModuleSpec, choice: Choice, axes: dict[str, tuple[int, ...]], precision: str, device: Device
    ) -> tuple[tuple[Device, Device], Seconds] | None:
        """The device as a kernel finds it forward and backward, and by which factors an option misses that; None where its kernel was
        never measured on this sub-module."""
        group = self.of(sub, choice.kernel, precision, device)
        if not group.samples:
            return None
        found = blended(place(sub, axes, choice.rows), group.points)
        return group.devices, Seconds(*(whole * f for whole, f in zip(self.factors, found, strict=True)))

    def caution(self, sub: SubModuleSpec, precision: str, device: Device) -> Seconds:
        """For a kernel that nobody measured: the model's largest miss on this sub-module, so that no kernel is chosen for
        being unknown."""
        groups = [self.of(sub, kernel, precision, device) for kernel in sub.kernels]
        known = [g.missed(i, (AS_SAID, AS_SAID)) for g in groups for i in range(len(g.samples))]
        return Seconds(*(whole * (max((f[i] for f in known), default=0.0) or 1.0) for i, whole in enumerate(self.factors)))

    def error(self, sub: SubModuleSpec, choice: Choice, axes: dict[str, tuple[int, ...]], precision: str, device: Device) -> float | None:
        """Of an option: 0 where it was measured, the median error of such predictions where not, None where nothing is known."""
        group = self.of(sub, choice.kernel, precision, device)
        if any(s.precision != precision for s in group.samples):
            return None
        if place(sub, axes, choice.rows) in group.places:
            return 0.0
        found = group.slices_errors if tuple(sorted(axes.items())) in group.sizes else group.sizes_errors
        return median(found) if found else None


def modelled_sample(sub: SubModuleSpec, s: Sample, device: Device) -> Seconds:
    setting = Setting(Shapes(s.axes, sub_channels(sub)), ITEMSIZE[s.precision])
    cost = sub.kernels[s.kernel]["cpu" if device.name == "cpu" else "cuda"]
    return sub_module_seconds(sub, cost, Choice(s.kernel, s.rows, s.share_rows), setting, device, s.precision)


def place(sub: SubModuleSpec, axes: dict[str, tuple[int, ...]], rows: int) -> Place:
    """Where an option stands among the sizes: logarithms of the lengths it maps over and of its rows."""
    lengths = axes[sub.reads[0][0]]
    return (*(log2(x) for x in lengths), log2(min(rows, lengths[sub.reads[0][1]])))


def fitted(terms: np.ndarray, seconds: np.ndarray) -> Speeds:
    """x >= 0 with the least squares of terms x / seconds - 1, and of PULL (x / their mean - 1): the best over all subsets that may be
    other than 0."""
    mean = float(np.exp(np.mean(np.log(seconds / terms.sum(1)))))
    rows = np.vstack([terms / seconds[:, None], PULL / mean * np.eye(3)])
    wanted = np.concatenate([np.ones(len(seconds)), PULL * np.ones(3)])
    best, least = np.zeros(3), math.inf
    for columns in ((0, 1, 2), *combinations(range(3), 2), *combinations(range(3), 1)):
        x = np.zeros(3)
        x[list(columns)] = np.linalg.lstsq(rows[:, columns], wanted, rcond=None)[0]
        off = float(((rows @ x - wanted) ** 2).sum())
        if (x >= 0).all() and off < least:
            best, least = x, off
        if len(columns) == 3 and least < math.inf:
            break
    return tuple(float(x) for x in best)  # type: ignore[return-value]


def blended(here: Place, known: list[tuple[Place, Seconds]]) -> Seconds:
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
