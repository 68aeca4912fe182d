"""Kernels that failed their check on a device (`foldfit doctor --kernels`): they are never planned for it."""

from functools import lru_cache
from pathlib import Path

import msgspec

from foldfit.cost.database import user_file
from foldfit.errors import BadInput
from foldfit.plans import write_text
from foldfit.stacks.spec import SubModuleSpec


def trust_file(device: str) -> Path:
    return user_file(device).with_suffix(".distrusted.json")


def mark(kernel: str, sub: SubModuleSpec, precision: str) -> str:
    return f"{kernel} {sub.kind} {precision}"


@lru_cache
def distrusted(device: str) -> frozenset[str]:
    """Marks of the kernels that failed. Raises BadInput for a file that is no list of them."""
    path = trust_file(device)
    if not path.is_file():
        return frozenset()
    try:
        return frozenset(msgspec.json.decode(path.read_bytes(), type=list[str]))
    except (msgspec.DecodeError, msgspec.ValidationError, OSError) as error:
        raise BadInput(f"{path} is no list of kernels: {error}; run foldfit doctor --kernels again") from None


def save_distrusted(device: str, marks: list[str]) -> None:
    write_text(trust_file(device), msgspec.json.encode(marks).decode() + "\n")
    distrusted.cache_clear()
