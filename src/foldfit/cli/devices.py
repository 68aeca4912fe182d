"""`foldfit devices`."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def main(args: argparse.Namespace) -> None:
    import msgspec

    from foldfit.cost.devices import DEVICES
    from foldfit.units import format_bytes

    if args.json:
        print(msgspec.json.encode({"devices": list(DEVICES.values())}).decode())
        return
    print(f"{'device':16}{'memory':>12}{'TB/s':>8}{'fp32':>8}{'tf32':>8}{'bf16':>8}{'fp16':>8}  (TFLOP/s)  source")
    for d in DEVICES.values():
        peaks = "".join(f"{d.peaks[p] / 1e12:>8.1f}" if p in d.peaks else f"{'-':>8}" for p in ("fp32", "tf32", "bf16", "fp16"))
        print(f"{d.name:16}{format_bytes(d.memory):>12}{d.bandwidth / 1e12:>8.2f}{peaks}  {d.source}")
