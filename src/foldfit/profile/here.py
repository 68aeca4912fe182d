"""The device in this machine, as torch sees it, and what was measured on it."""

from dataclasses import replace
from pathlib import Path

import torch

from foldfit.cost.database import KERNELS, Costs, load_costs, shipped_file
from foldfit.cost.devices import Device, find_device
from foldfit.errors import BadInput, MissingEnvironment, NotSupported


def cuda_device() -> Device:
    """The entry of the device table for the first CUDA device, with the memory that this card really has.

    Raises MissingEnvironment without a card, NotSupported for one that the table does not have.
    """
    if not torch.cuda.is_available():
        raise MissingEnvironment("no CUDA device here: name the card to plan for (see `foldfit devices`), or --device cpu")
    name = torch.cuda.get_device_name().removeprefix("NVIDIA ").removeprefix("GeForce ")
    free, total = torch.cuda.mem_get_info()
    for candidate in (name, name.split()[0], f"{name.split()[0].split('-')[0]}-{round(total / 2**30 / 8) * 8}GB"):
        try:
            device = find_device(candidate)
        except BadInput:
            continue
        return replace(device, memory=total, reserved=total - free)
    raise NotSupported(f"the device table has no {name!r}: plan for a similar card by name (see `foldfit devices`)")


def costs_here(path: Path, device: Device) -> Costs:
    """The database in that file; where there is none, the one that ships with foldfit if it is of these versions and kernels, else an
    empty one. Raises BadInput for one of another device, other versions or other kernels."""
    versions = {"torch": str(torch.__version__), "cuda": str(torch.version.cuda)}
    shipped = shipped_file(device.name)
    costs = Costs(device=device.name, versions=versions, kernels=KERNELS, date="")
    if path.exists():
        costs = load_costs(path)
    elif shipped.is_file() and (load_costs(shipped).versions, load_costs(shipped).kernels) == (versions, KERNELS):
        costs = load_costs(shipped)
    if costs.kernels != KERNELS:
        raise BadInput(f"{path} has the times of another foldfit's kernels: give another file as --costs")
    if (costs.device, costs.versions) != (device.name, versions):
        raise BadInput(f"{path} is of {costs.device}, {costs.versions}, this is {device.name}, {versions}: give another file as --costs")
    return costs
