"""Which kernels a device may be planned for: what `foldfit doctor --kernels` found on it.

A kernel that failed its check is never planned. One of an optional package is planned only where it passed, or where it is asked
for (`--providers`): a plan is often made on a machine that cannot know what the other one has.
"""

from functools import lru_cache
from pathlib import Path

import msgspec

from foldfit.cost.database import user_file
from foldfit.cost.devices import Device
from foldfit.errors import BadInput
from foldfit.plans import write_text
from foldfit.stacks import published
from foldfit.stacks.spec import Kernel, SubModuleSpec


class Trust(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Marks of the kernels that failed, and of optional ones that passed. `checked`: those that a run which was stopped had done, and
    need not be done again by one of the same `versions`."""

    failed: frozenset[str] = frozenset()
    passed: frozenset[str] = frozenset()
    checked: frozenset[str] = frozenset()
    versions: str = ""

    def judged(self, mark: str, trusted: bool, optional: bool, versions: str) -> "Trust":
        """The same with one more."""
        one, checked = {mark}, self.checked if versions == self.versions else frozenset()
        failed = self.failed - one if trusted else self.failed | one
        passed = self.passed | one if trusted and optional else self.passed - one
        return Trust(failed, passed, checked | one, versions)


def trust_file(device: str) -> Path:
    return user_file(device).with_suffix(".kernels.json")


def kind_mark(kernel: str, sub: SubModuleSpec, precision: str) -> str:
    return f"{kernel} {sub.kind} {precision}"


def mark(kernel: str, sub: SubModuleSpec, precision: str) -> str:
    """What is trusted together: a kind of sub-module at all published widths; at others, which it names, for itself."""
    own = kind_mark(kernel, sub, precision)
    if any(sub.kind == other.kind and sub.widths == other.widths for other in published()):
        return own
    return own + "".join(f" {name}={n}" for name, n in sorted(sub.widths.items()))


@lru_cache
def trust_of(device: str) -> Trust:
    """Raises BadInput for a file that is none."""
    path = trust_file(device)
    if not path.is_file():
        return Trust()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Trust)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, OSError) as error:
        raise BadInput(f"{path} is no list of kernels: {error}; delete it, and run foldfit doctor --kernels again") from None


def save_trust(device: str, trust: Trust) -> None:
    write_text(trust_file(device), msgspec.json.encode(trust, order="sorted").decode() + "\n")
    trust_of.cache_clear()


def trusted(name: str, kernel: Kernel, sub: SubModuleSpec, precision: str, device: Device) -> bool:
    """Whether a sub-module may be planned by this kernel: other widths are trusted as the published ones are until they are checked."""
    found, marks = trust_of(device.name), {kind_mark(name, sub, precision), mark(name, sub, precision)}
    return marks.isdisjoint(found.failed) and (not kernel.package or name in device.providers or not marks.isdisjoint(found.passed))
