"""`foldfit devices`."""

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldfit.cost.devices import Device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", nargs="?", help="one: what its measured costs are, and how well they predict one another")
    parser.add_argument(
        "--costs", default="", metavar="FILE", help="a file of measured costs (default: this machine's own, or the shipped ones)"
    )


def main(args: argparse.Namespace) -> None:
    import msgspec

    from foldfit.cost.devices import DEVICES, find_device
    from foldfit.units import format_bytes

    if args.device:
        one(replace(find_device(args.device), costs=args.costs), args.json)
        return
    if args.json:
        print(msgspec.json.encode({"devices": list(DEVICES.values())}).decode())
        return
    print(f"{'device':16}{'memory':>12}{'TB/s':>8}{'fp32':>8}{'tf32':>8}{'bf16':>8}{'fp16':>8}  (TFLOP/s)  costs      source")
    for d in DEVICES.values():
        peaks = "".join(f"{d.peaks[p] / 1e12:>8.1f}" if p in d.peaks else f"{'-':>8}" for p in ("fp32", "tf32", "bf16", "fp16"))
        print(f"{d.name:16}{format_bytes(d.memory):>12}{d.bandwidth / 1e12:>8.2f}{peaks}             {stands_on(d):11}{d.source}")


def stands_on(device: "Device") -> str:
    from foldfit.cost.database import costs_file

    return "measured" if costs_file(device) else "modelled"


def one(device: "Device", as_json: bool) -> None:
    import msgspec

    from foldfit.cost.accuracy import accuracy, overall, table
    from foldfit.cost.database import costs_file, load_costs

    path = costs_file(device)
    if path is None:
        print(
            msgspec.json.encode({"device": device}).decode() if as_json else f"{device.name}: modelled costs; foldfit profile measures them"
        )
        return
    costs = load_costs(path)
    found = accuracy(costs.samples, device)
    if as_json:
        print(
            msgspec.json.encode(
                {"device": device, "costs": str(path), "versions": costs.versions, "date": costs.date, "errors": found}
            ).decode()
        )
        return
    versions = ", ".join(f"{name} {version}" for name, version in costs.versions.items())
    print(f"{device.name}: {len(costs.samples)} options measured with {versions}, {costs.date}\n{path}\n{overall(found)}\n\n{table(found)}")
