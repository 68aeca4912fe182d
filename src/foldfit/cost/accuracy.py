"""How well a cost database predicts itself: by sub-module, kernel and precision."""

from collections.abc import Iterable
from statistics import median

import msgspec

from foldfit.cost.devices import Device
from foldfit.cost.interpolate import Corrections
from foldfit.cost.sample import Sample, name_of
from foldfit.stacks import published
from foldfit.stacks.spec import SubModuleSpec


class Accuracy(msgspec.Struct, frozen=True):
    """Relative errors (median, most) of samples that are predicted by the others of their size and by other sizes, and by other
    sizes alone; None where there are none."""

    sub_module: str
    kernel: str
    precision: str
    samples: int
    sizes: int
    other_slices: tuple[float, float] | None
    other_sizes: tuple[float, float] | None


def accuracy(samples: Iterable[Sample], device: Device, subs: Iterable[SubModuleSpec] = ()) -> list[Accuracy]:
    """Of the samples of `subs` and of the published sub-modules."""
    costs, out = Corrections(samples), []
    by_name = {name_of(sub): sub for sub in (*subs, *published())}
    for (name, kernel, precision), some in costs.samples.items():
        if name in by_name and kernel in by_name[name].kernels:
            group = costs.of(by_name[name], kernel, precision, device)
            out.append(Accuracy(
                name.split()[0], kernel, precision, len(some), len(group.sizes), summary(group.slices_errors), summary(group.sizes_errors)
            ))  # fmt: skip
    return out


def summary(errors: list[float]) -> tuple[float, float] | None:
    return (median(errors), max(errors)) if errors else None


def overall(found: list[Accuracy]) -> str:
    """In a line: the median over kernels of their medians, and the worst of all."""
    parts = []
    for name, each in (("other slices", [a.other_slices for a in found]), ("other sizes", [a.other_sizes for a in found])):
        known = [e for e in each if e]
        if known:
            parts.append(f"± {100 * median(m for m, _ in known):.1f} % at {name} (at most {100 * max(w for _, w in known):.0f} %)")
    return ", ".join(parts) or "of one option each: nothing says how well they predict others"


def table(found: list[Accuracy]) -> str:
    """A line each."""
    head = f"{'sub-module':36} {'kernel':10} {'':5} {'samples':>7} {'sizes':>5}  {'other slices: median, most':>26}  {'other sizes':>14}"
    lines = [head]
    for a in sorted(found, key=lambda a: (a.precision, a.sub_module, a.kernel)):
        errors = f"{percent(a.other_slices):>26}  {percent(a.other_sizes):>14}"
        lines.append(f"{a.sub_module:36} {a.kernel:10} {a.precision:5} {a.samples:7} {a.sizes:5}  {errors}")
    return "\n".join(lines)


def percent(errors: tuple[float, float] | None) -> str:
    return f"{100 * errors[0]:.1f}, {100 * errors[1]:.0f} %" if errors else "-"
