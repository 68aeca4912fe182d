"""The device table: memory, bandwidth, dense peaks by precision, launch latency, links; each with its public source.

Peaks are dense (no sparsity), in FLOP/s; bandwidths in bytes/s, links per direction. `fp32` is the plain one; a precision
that a device has no units for is absent. A measured value stands in place of the data sheet's where `source` says so.
"""

import difflib
import os
from dataclasses import dataclass, field

from foldfit.errors import BadInput, NotSupported

GIB = 2**30
CONTEXT = 3 * 2**28
"""Bytes of a CUDA context with PyTorch's kernels loaded, about: outside the allocator, so not a plan's to use."""

EAGER_CALL = 2e-5
"""Seconds between kernels that PyTorch launches one by one, autograd included: far longer than the launch itself. From a
training step of small sub-modules beside an H200 (benchmarks/results/training_h200.json); the host's processor decides."""
CPU_CALL = 9e-6
"""The same where nothing is launched to a device."""


COLLECTIVE, CPU_COLLECTIVE = 4e-5, 3e-4
"""Seconds of a collective of hardly any bytes within a host, launch included: by NCCL, as measured on a host with 4 H200 (1 MiB: 39 to
43 us; on 2 of them 26 to 28), and by gloo between processes, an assumption."""

GRAPH_CALL = 3e-6
"""Seconds between kernels of a CUDA graph, fitted with the shares of cost/seconds.py."""

COLLECTIVE_CALL = 4.5e-5
"""Seconds in which the host calls a collective that no graph has in it: 37 to 52 us, measured on a host with 4 H200 (torch 2.11)."""

GRAPH_COLLECTIVE = 1.4e-5
"""Seconds that a collective of a CUDA graph takes beyond its own: whole steps of 48 blocks took 3 to 17 us a collective longer than the
sum of their options on 2 and 4 H200 (two of ten no longer), 32 to 46 on 2 H100 (benchmarks/results/ranks_h200.json, study_h100)."""

HOSTS_TOGETHER = 1.6
"""Times as long as alone that the hosts of several ranks take to launch kernels one by one, since each collective waits for the slowest:
13 runs on 2 and 4 ranks that they decide took 1.2 to 2.7 times their launches (benchmarks/results/ranks_h200.json, study_h100 and
study_h200)."""


@dataclass(frozen=True)
class Device:
    """`memory`: bytes that the card has; `reserved`: bytes of it that no plan can use. `link`: to other devices of the host,
    0 where they share the host link; `host_link`: to pinned host memory; `network`: to other hosts, a device (400 Gbit/s, as DGX
    and HGX systems have), with `per_host` devices each. `collective_seconds`: latency of a collective within a host.
    `launch_seconds`: of the host, a kernel; `gap_seconds`: of the device, from one kernel in line to the next."""

    name: str
    memory: int
    bandwidth: float
    peaks: dict[str, float]
    source: str
    link: float = 0.0
    host_link: float = 25e9
    network: float = 50e9
    per_host: int = 8
    collective_seconds: float = COLLECTIVE
    launch_seconds: float = EAGER_CALL
    gap_seconds: float = GRAPH_CALL
    reserved: int = CONTEXT
    aliases: tuple[str, ...] = field(default=())
    without: tuple[str, ...] = ()
    """Kernels that cannot run on it."""
    providers: tuple[str, ...] = ()
    """Kernels of optional packages that its machine is said to have; those that were checked there need no word (cost/trust.py)."""
    costs: str = ""
    """A file of measured costs; "": this machine's own or the shipped one, where there is one; "modelled": none."""

    def peak(self, precision: str) -> float:
        """FLOP/s of matrix products. Raises NotSupported for a precision that the device lacks."""
        if precision not in self.peaks:
            raise NotSupported(f"{self.name} has no {precision} units: expected one of {', '.join(self.peaks)}")
        return self.peaks[precision]


def peaks(fp32: float, tf32: float | None, half: float, bf16: bool = True) -> dict[str, float]:
    """TFLOP/s as data sheets give them."""
    out = {"fp32": fp32 * 1e12, "fp16": half * 1e12}
    out |= {"tf32": tf32 * 1e12} if tf32 else {}
    return out | ({"bf16": half * 1e12} if bf16 else {})


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu() -> Device:
    """This machine's processor: a modest figure a core, since what a core does is not in any table."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        memory = 8 * GIB
    n = cores()
    return Device(
        "cpu", memory, 16e9 * n, {"fp32": 90e9 * n, "tf32": 90e9 * n, "bf16": 60e9 * n, "fp16": 15e9 * n},
        "an assumption: 90 GFLOP/s and 16 GB/s a core; memory is what is free now", host_link=10e9, launch_seconds=CPU_CALL,
        gap_seconds=CPU_CALL, reserved=0,
        collective_seconds=CPU_COLLECTIVE,
    )  # fmt: skip


V100_PEAKS = peaks(15.7, None, 125, bf16=False)
V100_LACKS = ("triton",)  # whose compiler begins at compute capability 8.0
V100_SHEET = "NVIDIA Tesla V100 data sheet, 2020 (SXM2)"
A100_SHEET = "NVIDIA A100 data sheet, 2021 (SXM)"

GPUS = (
    Device("V100-16GB", 16 * GIB, 900e9, V100_PEAKS, V100_SHEET, 150e9, 12e9, aliases=("V100-16",), without=V100_LACKS),
    Device("V100-32GB", 32 * GIB, 900e9, V100_PEAKS, V100_SHEET, 150e9, 12e9, aliases=("V100-32", "V100"), without=V100_LACKS),
    Device("A100-40GB", 40 * GIB, 1555e9, peaks(19.5, 156, 312), A100_SHEET, 300e9, aliases=("A100-40",)),
    Device("A100-80GB", 80 * GIB, 2039e9, peaks(19.5, 156, 312), A100_SHEET, 300e9, aliases=("A100-80", "A100")),
    Device("L4", 24 * GIB, 300e9, peaks(30.3, 60, 121), "NVIDIA L4 data sheet, 2023; tensor peaks halved from those with sparsity"),
    Device("L40S", 48 * GIB, 864e9, peaks(91.6, 183, 362), "NVIDIA L40S data sheet, 2023"),
    Device("RTX 3090", 24 * GIB, 936e9, peaks(35.6, 35.6, 71), "NVIDIA GA102 white paper, 2020 (fp32 accumulation)"),
    Device("RTX 4090", 24 * GIB, 1008e9, peaks(82.6, 82.6, 165.2), "NVIDIA Ada white paper, 2022 (fp32 accumulation)"),
    Device("RTX 5090", 32 * GIB, 1792e9, peaks(104.8, 104.8, 209.5), "NVIDIA RTX Blackwell white paper, 2025 (as 4090)", host_link=50e9),
    Device("H100", 80 * GIB, 3350e9, peaks(66.9, 494.7, 989.4), "NVIDIA H100 data sheet, 2023 (SXM), no sparsity", 450e9, 50e9),
    Device(
        "H200", 143771 * 2**20, 4.27e12, peaks(51, 418, 812),
        "measured on one, 2026-11-22: copy, 8192^3 products; links by NCCL on a host with 4 of them, all-to-all, gather and sum of 1 GiB: "
        "325 to 355 GB/s; memory by nvidia-smi (NVIDIA's data sheet of 2024: 141 GB, 4.8 TB/s, 67 / 494.5 / 989.5 TFLOP/s)", 335e9, 55e9,
    ),
    Device("B200", 180 * GIB, 7700e9, peaks(75, 1100, 2250), "NVIDIA HGX B200 data sheet, 2025; per GPU, without sparsity", 900e9, 50e9),
    Device("MI300X", 192 * GIB, 5300e9, peaks(163.4, 653.7, 1307.4), "AMD Instinct MI300X data sheet, 2023", 64e9, 50e9),
)  # fmt: skip

DEVICES: dict[str, Device] = {device.name: device for device in (*GPUS, cpu())}


def key(name: str) -> str:
    return "".join(name.lower().replace("-", "").replace("_", "").split())


def find_device(name: str) -> Device:
    """By name, whatever the case, spaces or dashes. Raises BadInput with the names that come close."""
    known = {key(n): d for d in DEVICES.values() for n in (d.name, *d.aliases)}
    if key(name) not in known:
        close = difflib.get_close_matches(key(name), known, 2, 0.5)
        hint = f"did you mean {' or '.join(known[c].name for c in close)}?" if close else ""
        raise BadInput(f"unknown device {name!r}: {hint or 'expected one of ' + ', '.join(DEVICES)}")
    return known[key(name)]
