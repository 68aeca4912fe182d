"""The flags that say what is to be planned, and the problem they make."""

import argparse
import re
from dataclasses import replace
from typing import Literal

from foldfit.cost.devices import Device, find_device
from foldfit.errors import BadInput
from foldfit.problem import Problem, Stack
from foldfit.stacks.kernels import known_providers
from foldfit.units import parse_host_memory, parse_memory


def add_arguments(parser: argparse.ArgumentParser, *, sizes: bool = True) -> None:
    add = parser.add_argument
    add(
        "--stack",
        default="evoformer",
        help="evoformer, extra_msa, pairformer, or several in a row: extra_msa,evoformer (default evoformer)",
    )
    add("--msa", metavar="FILE", help="an alignment, .a3m or .a3m.gz: its residues, and its rows where --n-seq is not given")
    add("--n-seq", metavar="S", help="rows of the MSA; with several stacks one number each, as 1024,128")
    if sizes:
        add("--n-res", type=int, metavar="R", help="residues")
    add("--blocks", metavar="B", help="blocks of the stack (default: the published model's); with several stacks one number each")
    add("--mode", choices=("infer", "train"), default="infer")
    add("--precision", choices=("fp32", "tf32", "bf16", "fp16"), default="fp32")
    add("--parameters", choices=("fp32", "bf16", "fp16"), help="precision the parameters are stored in (default: as --precision)")
    add("--optimizer", choices=("none", "sgd", "adam"), default="none")
    add(
        "--gradients",
        choices=("fresh", "accumulated"),
        default="fresh",
        help="accumulated: a step finds those of earlier ones (default fresh)",
    )
    add("--batch", type=int, default=1, metavar="N")
    add("--width", action="append", default=[], metavar="NAME=N", help="a width that differs from the published model's, as c_m=64")
    add("--device", default="cpu", help="a name (see `foldfit devices`), cpu, or cuda for the card in this machine (default cpu)")
    add("--launch", choices=("eager", "graph"), default="eager", help="kernel by kernel, or as CUDA graphs (default eager)")
    add("--costs", default="", metavar="FILE", help="measured costs (default: this machine's own, or the shipped ones), or modelled")
    add("--providers", default="", metavar="NAMES", help="kernels of optional packages that the machine has: cueq (default: those checked)")
    add("--host-memory", default="0", metavar="SIZE", help="pinned: for inputs of a step's blocks, for an inference's pair (default 0)")
    add("--inputs", choices=("kept", "overwritten"), default="kept", help="an inference may overwrite them: a copy less (default kept)")
    add("--memory", default="auto", help="the limit of each device: 16GiB, 16GB, 80%%, or auto for all that it has (default auto)")


def add_ranks(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """`several`: whether --gpus takes several numbers."""
    more = ", or several to compare: 1,2,4,8" if several else ""
    parser.add_argument("--gpus", metavar="N", help=f"ranks, a device each, which torchrun starts{more} (default 1)")
    parser.add_argument("--axial", type=int, metavar="N", help="how many of them share one sample (default: all)")


def numbers(text: str | None, flag: str, count: int) -> list[int | None]:
    """One whole number a stack, or None where the flag was not given."""
    if text is None:
        return [None] * count
    parts = text.split(",")
    if len(parts) != count or not all(re.fullmatch(r"\s*-?[0-9]+\s*", p) for p in parts):
        raise BadInput(f"{flag} {text}: expected {count} whole number{'s, one a stack' if count > 1 else ''}")
    return [int(p) for p in parts]


def widths_of(given: list[str]) -> dict[str, int]:
    out = {}
    for text in given:
        name, _, value = text.partition("=")
        if not re.fullmatch("[0-9]+", value):
            raise BadInput(f"--width {text}: expected NAME=N, as c_m=64")
        out[name] = int(value)
    return out


def device_of(name: str) -> tuple[Device, Literal["cpu", "cuda"]]:
    """The device and its type. `cuda` asks torch which card this machine has."""
    if name == "cuda":
        from foldfit.profile.here import cuda_device

        return cuda_device(), "cuda"
    device = find_device(name)
    return device, "cpu" if device.name == "cpu" else "cuda"


def gpus_of(text: str | None) -> list[int]:
    """Raises BadInput."""
    text = text or "1"
    if not all(re.fullmatch(r"\s*[0-9]+\s*", part) and int(part) for part in text.split(",")):
        raise BadInput(f"--gpus {text}: expected whole numbers of at least 1, as 4 or 1,2,4")
    return [int(part) for part in text.split(",")]


def problem_of(args: argparse.Namespace, n_res: int | None = None) -> tuple[Problem, Device]:
    """`n_res`: in place of what the flags say. Raises BadInput for flags without sense."""
    from foldfit.stacks import STACKS, stack_spec

    gpus = gpus_of(getattr(args, "gpus", None))
    if len(gpus) > 1:
        raise BadInput(f"--gpus {args.gpus}: expected one number")
    device, kind = device_of(args.device)
    device = replace(device, costs=args.costs, providers=known_providers(filter(None, args.providers.split(","))))
    names = args.stack.split(",")
    for name in names:
        if name not in STACKS:
            raise BadInput(f"--stack {args.stack}: unknown stack {name!r}, expected {', '.join(STACKS)}")
    wanted = None if n_res else getattr(args, "n_res", None)
    rows = numbers(args.n_seq, "--n-seq", len(names))
    if args.msa:
        from foldfit.inputs.a3m import read_a3m

        alignment = read_a3m(args.msa)
        found_rows, found_res = alignment.rows.shape
        if wanted not in (None, found_res):
            raise BadInput(f"--n-res {wanted}: {args.msa} has {found_res} residues; leave --n-res out")
        wanted, rows = found_res, [found_rows if r is None else r for r in rows]
    n_res = n_res or wanted
    if n_res is None:
        raise BadInput("how long is the protein? give --n-res R, or --msa FILE.a3m")
    widths = widths_of(args.width)
    stacks = []
    for name, r, blocks in zip(names, rows, numbers(args.blocks, "--blocks", len(names)), strict=True):
        msa = stack_spec(name).msa_axis
        if r is None and msa:
            raise BadInput(f"how many rows has the MSA of {name}? give --n-seq S, or --msa FILE.a3m")
        own = {k: v for k, v in widths.items() if len(names) == 1 or k in stack_spec(name).widths}
        spec = stack_spec(name, **own)
        stacks.append(Stack(name, spec.default_blocks if blocks is None else blocks, r or 0 if msa else 0, own))
    stored = {"tf32": "fp32"}.get(args.precision, args.precision)
    return Problem(
        stacks=tuple(stacks),
        n_res=n_res,
        mode=args.mode,
        precision=args.precision,
        parameters=args.parameters or stored,
        optimizer=args.optimizer,
        gradients=args.gradients,
        dropout=args.mode == "train",
        inputs=args.inputs,
        batch=args.batch,
        launch=args.launch,
        device=device.name,
        device_type=kind,
        memory=parse_memory(args.memory, device.memory, device.reserved),
        host_memory=parse_host_memory(args.host_memory),
        world=gpus[0],
        axial=gpus[0] if getattr(args, "axial", None) is None else args.axial,
    ), device
