"""Seconds of collectives between ranks, a device each: latency + bytes / bandwidth.

Within a host every rank sends over its own link to the others; between hosts over its own network adapter, so that a host
of H ranks sends with H of them. The volumes are those of the bandwidth-optimal algorithms (Thakur et al. 2005,
"Optimization of Collective Communication Operations in MPICH"). `size`: bytes.
"""

from foldfit.cost.devices import Device


def latency(device: Device, ranks: int) -> float:
    """Between hosts twice that of one."""
    return device.collective_seconds * (1 if ranks <= device.per_host else 2)


def link(device: Device) -> float:
    """Bytes/s between devices of a host; those without a link of their own go through the host's memory."""
    return device.link or device.host_link


def outside(device: Device, ranks: int) -> float:
    """The part of all ranks that are on other hosts."""
    return max(0.0, 1 - device.per_host / ranks)


def all_to_all(device: Device, ranks: int, size: int) -> float:
    """Each rank has `size` before it and after it; it packs what it sends, or unpacks what it gets."""
    out = outside(device, ranks)
    inside = 1 - 1 / ranks - out
    return latency(device, ranks) + size * (inside / link(device) + out / device.network + 2 / device.bandwidth)


def all_gather(device: Device, ranks: int, size: int) -> float:
    """To `size` on every rank, from its part of each; the sum of gradients into parts is the same backwards."""
    out = outside(device, ranks)
    return latency(device, ranks) + size * ((1 - 1 / ranks) / link(device) + out / (device.network * min(ranks, device.per_host)))


def all_reduce(device: Device, ranks: int, size: int) -> float:
    return 2 * all_gather(device, ranks, size) if ranks > 1 else 0.0
