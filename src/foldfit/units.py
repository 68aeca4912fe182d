"""Bytes and seconds as people write them. `16GiB` is 2^34 bytes, `16GB` is 16e9."""

import math
import re

from foldfit.errors import BadInput

UNITS = {
    "B": 1,
    "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)")


def parse_bytes(text: str) -> int:
    """Bytes of "16GiB", "1.5GB", "1073741824B". Raises BadInput for anything else: a bare number is ambiguous."""
    match = NUMBER.fullmatch(text.strip())
    if not match:
        raise BadInput(f"{text!r} is not an amount of memory: expected a number and a unit, as 16GiB or 16GB")
    number, unit = match.groups()
    if unit not in UNITS:
        close = next((u for u in UNITS if u.lower().startswith(unit.lower()) and len(u) == 3), "GiB") if unit else "GiB"
        got = f"the unit {unit!r}" if unit else "no unit"
        raise BadInput(f"{text!r} has {got}: expected one of {', '.join(UNITS)}; perhaps {number}{close}?")
    whole, _, fraction = number.partition(".")
    size = int(whole) * UNITS[unit] + (int(fraction) * UNITS[unit] // 10 ** len(fraction) if fraction else 0)
    if size < 1:
        raise BadInput(f"{text!r} is no memory at all: expected more than 0 bytes")
    return size


def parse_memory(text: str, total: int, reserved: int = 0) -> int:
    """A limit in bytes: an amount; `80%` of the device's `total`; or `auto`, all of it but what is `reserved`.

    Raises BadInput for anything else, and for more than 100 %.
    """
    text = text.strip()
    if text == "auto":
        return total - reserved
    if text.endswith("%"):
        match = NUMBER.fullmatch(text[:-1])
        if not match or match.group(2) or not 0 < float(match.group(1)) <= 100:
            raise BadInput(f"{text!r} is not a part of the device's memory: expected 1% to 100%")
        return int(total * float(match.group(1)) / 100)
    return parse_bytes(text)


def parse_host_memory(text: str) -> int:
    """Bytes of "64GiB", or of "0" for none. Raises BadInput for anything else."""
    return 0 if text.strip() == "0" else parse_bytes(text)


def format_bytes(size: float, up: bool = False) -> str:
    """In the largest binary unit that it fills, three digits; `up`: never less than the size, so that it may be typed back."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size >= UNITS[unit]:
            value = size / UNITS[unit]
            digits = 0 if value >= 1000 else 1 if value >= 100 else 2
            if up:  # in whole numbers: a float may lose the last bytes
                value = -(-math.ceil(size) * 10**digits // UNITS[unit]) / 10**digits
            return f"{value:.{digits}f}{unit if up else ' ' + unit}"
    return f"{math.ceil(size) if up else round(size)}{'' if up else ' '}B"


def format_seconds(seconds: float) -> str:
    """In s, ms or us, three digits."""
    if not math.isfinite(seconds):
        return "never" if seconds > 0 else "?"
    for unit, size in (("us", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:.0f} s"
