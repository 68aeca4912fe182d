"""Seconds of collectives between ranks, a device each: latency + bytes / bandwidth, by the model or as measured (cost/links.py).

Within a host every rank sends over its own link to the others; between hosts over its own network adapter, so that a host
of H ranks sends with H of them. The volumes are those of the bandwidth-optimal algorithms (Thakur et al. 2005,
"Optimization of Collective Communication Operations in MPICH"). `size`: bytes.
"""

from foldfit.cost.database import collectives_of
from foldfit.cost.devices import Device
from foldfit.cost.links import factor_of


def latency(device: Device, ranks: int) -> float:
    """Between hosts twice that of one."""
    return device.collective_seconds * (1 if ranks <= device.per_host else 2)


def link(device: Device) -> float:
    """Bytes/s between devices of a host; those without a link of their own go through the host's memory."""
    return device.link or device.host_link


def outside(device: Device, ranks: int) -> float:
    """The part of all ranks that are on other hosts."""
    return max(0.0, 1 - device.per_host / ranks)


def modelled(name: str, device: Device, ranks: int, size: int) -> float:
    """Of the collective of that name: see the functions below for what `size` is."""
    out = outside(device, ranks)
    if name == "all_to_all":
        seconds = size * ((1 - 1 / ranks - out) / link(device) + out / device.network)
    elif name == "pass_on":
        seconds = size / (device.network if out else link(device))
    elif name == "broadcast":
        seconds = size * (1 / link(device) + (1 / (device.network * min(ranks, device.per_host)) if out else 0))
    else:
        way = 2 if name == "all_reduce" else 1
        seconds = way * size * ((1 - 1 / ranks) / link(device) + out / (device.network * min(ranks, device.per_host)))
    return latency(device, ranks) + seconds


COLLECTIVES = ("all_to_all", "all_gather", "reduce_scatter", "all_reduce", "broadcast", "pass_on")
"""What ranks do together, by name."""


def seconds_of(name: str, device: Device, ranks: int, size: int) -> float:
    """Of the device. Measured where its database has that collective, for the number of ranks that is nearest."""
    return modelled(name, device, ranks, size) * factor_of(collectives_of(device), name, device, ranks, size, modelled)


def are_measured(device: Device, ranks: int) -> bool:
    """Whether collectives between so many ranks were."""
    return any(c.ranks == ranks for c in collectives_of(device))


def relay(device: Device, ranks: int, size: int, parts: int) -> float:
    """Each rank has `size` before it and after it; it packs what it sends, or unpacks what it gets, a part beside the way of another."""
    part = size // parts
    return parts * seconds_of("all_to_all", device, ranks, part) + 2 * part / device.bandwidth


def gather(device: Device, ranks: int, size: int, rows: int) -> float:
    """To `size`, in so many rows, on every rank, from its part of each. Where rows do not divide, gloo does it one rank after the other."""
    if rows % ranks and device.name == "cpu":
        return min(rows, ranks) * seconds_of("broadcast", device, ranks, size // min(rows, ranks))
    return seconds_of("all_gather", device, ranks, size)


def reduce_scatter(device: Device, ranks: int, size: int, rows: int) -> float:
    """The sum of gradients into parts: gathering backwards."""
    if rows % ranks and device.name == "cpu":
        return min(rows, ranks) * seconds_of("broadcast", device, ranks, size // min(rows, ranks))
    return seconds_of("reduce_scatter", device, ranks, size)


def all_reduce(device: Device, ranks: int, size: int) -> float:
    return seconds_of("all_reduce", device, ranks, size) if ranks > 1 else 0.0


BESIDE = 1.4
"""Times as long as alone: pieces of 256 MiB beside a triangle multiplication, 1.23 to 1.45 ms for 0.90 on 4 H100, which took its kernels
1.2 to 1.9 times as long meanwhile."""

SLOWED = 0.4
"""Of the seconds that pieces or relays go on beside kernels, by which these take longer: a triangle multiplication's 0.57 ms, beside
pieces that the planner counts 1.35 ms, on 2 H200 (benchmarks/results/kernels_over_ranks_h200.json)."""


def pass_on(device: Device, ranks: int, size: int) -> float:
    """To the next rank, and as much from the one before, beside a computation where the device can."""
    return seconds_of("pass_on", device, ranks, size) * (1.0 if device.name == "cpu" else BESIDE)
