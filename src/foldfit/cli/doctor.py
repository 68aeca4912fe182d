"""`foldfit doctor`."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kernels", action="store_true", help="check every kernel on this machine's device against the reference in fp64")


def main(args: argparse.Namespace) -> int:
    return check_kernels(args) if args.kernels else environment(args)


def check_kernels(args: argparse.Namespace) -> int:
    """A kernel that fails is never planned for this device, until it passes. Exit code 1 if one does."""
    import json
    import sys

    import torch

    from foldfit.cost.trust import Trust, mark, save_trust
    from foldfit.profile.here import cuda_device
    from foldfit.profile.kernel_check import TOLERANCE, verdicts

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    name = cuda_device().name if kind == "cuda" else "cpu"
    found = []
    for v in verdicts(kind, ["fp32", "bf16"] if kind == "cpu" else list(TOLERANCE)):
        found.append(v)
        if not args.json:
            errors = f"{v.output:.1e} {v.inputs:.1e} {v.parameters:.1e}"
            print(f"{v.kernel:10} {v.sub.name:36} {v.precision:5} {errors}  {'trusted' if v.trusted else 'NOT TRUSTED'}", flush=True)
    failed = [mark(v.kernel, v.sub, v.precision) for v in found if not v.trusted]
    passed = [mark(v.kernel, v.sub, v.precision) for v in found if v.trusted and v.optional]
    save_trust(name, Trust(frozenset(failed), frozenset(passed)))
    if args.json:
        rows = [{"kernel": v.kernel, "sub_module": v.sub.name, "precision": v.precision, "output": v.output, "inputs": v.inputs,
                 "parameters": v.parameters, "trusted": v.trusted} for v in found]  # fmt: skip
        print(json.dumps({"device": name, "kernels": rows}))
    elif failed:
        print(f"never planned on {name}: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def environment(args: argparse.Namespace) -> int:
    import importlib.metadata
    import json
    import platform
    import shutil

    from foldfit.cost.devices import find_device
    from foldfit.errors import FoldfitError
    from foldfit.units import format_bytes

    found: dict[str, object] = {"python": platform.python_version()}
    missing = []
    for package in ("foldfit", "torch", "numpy", "msgspec", "rich", "triton", "matplotlib", "jinja2", "safetensors"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
            if package in ("torch", "numpy", "msgspec", "rich"):
                missing.append(package)
    cpu = find_device("cpu")
    found["cpu memory"] = cpu.memory
    found["free disk here"] = shutil.disk_usage(".").free
    if found["torch"]:
        from foldfit.profile.here import cuda_device

        try:
            device = cuda_device()
            found["cuda"] = {"name": device.name, "memory": device.memory, "free": device.memory - device.reserved}
        except FoldfitError as error:
            found["cuda"] = str(error)
    if args.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            text = format_bytes(value) if isinstance(value, int) else "not installed" if value is None else value
            print(f"{name:16}{text}")
        for package in missing:
            print(f"foldfit needs {package}: pip install {package}")
    return 5 if missing else 0
