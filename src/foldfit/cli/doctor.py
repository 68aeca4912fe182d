"""`foldfit doctor`."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--kernels", nargs="?", const="all", metavar="NAMES", help="check kernels on this device against fp64: all, or these")
    add("--precisions", default="", metavar="NAMES", help="of --kernels: only these, by commas")
    add("--width", action="append", default=[], metavar="NAME=N", help="of --kernels: at a width of your own, as c_m=64")
    add("--again", action="store_true", help="of --kernels: also what a run that was stopped had checked")


def main(args: argparse.Namespace) -> int:
    from foldfit.cli import kernels
    from foldfit.errors import BadInput

    if not args.kernels and (args.precisions or args.width or args.again):
        raise BadInput("--precisions, --width and --again are of --kernels: give that too")
    return kernels.main(args) if args.kernels else environment(args)


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
