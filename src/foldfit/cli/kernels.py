"""`foldfit doctor --kernels`."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foldfit.profile.kernel_check import Case, Verdict


def main(args: argparse.Namespace) -> int:
    """A kernel that fails is never planned for this device, until it passes. Every verdict is kept when it is there: what was stopped
    goes on where it was. Exit code 1 if one fails."""
    import json
    import sys
    from dataclasses import asdict

    import msgspec
    import torch

    from foldfit._version import __version__
    from foldfit.cli.progress import counted
    from foldfit.cost.trust import save_trust, trust_of
    from foldfit.profile.here import cuda_device

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    device = cuda_device() if kind == "cuda" else None
    name = device.name if device else "cpu"
    asked = asked_for(args, kind)
    trust, versions = trust_of(name), f"foldfit {__version__}, torch {torch.__version__}"
    before = set() if args.again or trust.versions != versions else trust.checked & asked.keys()
    if before:
        print(f"{len(before)} of {len(asked)} checked before the last run was stopped; --again checks them too", file=sys.stderr)
    rows = []
    with counted(len(asked) - len(before), "checking") as tick:
        for mark, found in judged(
            {m: c for m, c in asked.items() if m not in before}, kind, device.memory - device.reserved if device else 0
        ):
            tick(mark)
            trust = trust.judged(mark, all(v.trusted for v in found), optional(asked[mark][0], kind), versions)
            save_trust(name, trust)
            rows += found
            if not args.json:
                print("\n".join(map(line, found)), flush=True)
    save_trust(name, msgspec.structs.replace(trust, checked=trust.checked - asked.keys()))
    failed = sorted(trust.failed & asked.keys())
    if args.json:
        print(json.dumps({"device": name, "kernels": [asdict(v) | {"trusted": v.trusted} for v in rows], "failed": failed}))
    elif failed:
        print(f"never planned on {name}: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def asked_for(args: argparse.Namespace, kind: str) -> "dict[str, list[Case]]":
    """Mark -> its cases. Raises BadInput where the flags leave none."""
    from foldfit.cli.problem import widths_of
    from foldfit.errors import BadInput
    from foldfit.profile.kernel_check import TOLERANCE, cases
    from foldfit.stacks import STACKS, stack_spec

    widths, known = widths_of(args.width), {name for stack in STACKS for name in stack_spec(stack).widths}
    if unknown := widths.keys() - known:
        raise BadInput(f"--width {', '.join(sorted(unknown))}: expected some of {', '.join(sorted(known))}")
    precisions = args.precisions.split(",") if args.precisions else ["fp32", "bf16"] if kind == "cpu" else list(TOLERANCE)
    out: dict[str, list[Case]] = {}
    for case in cases(kind, precisions, widths):
        if args.kernels == "all" or case.kernel in args.kernels.split(","):
            out.setdefault(case.mark, []).append(case)
    if not out:
        raise BadInput(
            f"no kernel {args.kernels} on {kind} in {', '.join(precisions)}: leave out --precisions, the names after --kernels, or --width"
        )
    return out


def optional(case: "Case", kind: str) -> bool:
    return bool(case.sub.kernels[case.kernel][kind].package)


def judged(asked: "dict[str, list[Case]]", kind: str, free: int) -> "Iterator[tuple[str, list[Verdict]]]":
    """On a CPU one after the other; on a GPU in as many processes as it has memory and the host has cores for."""
    import os

    from foldfit.profile.kernel_check import check
    from foldfit.profile.kernel_processes import MEMORY, verdicts

    if kind == "cpu":
        yield from ((mark, [check(case, kind) for case in some]) for mark, some in asked.items())
    else:
        yield from verdicts(asked, kind, max(1, min(os.cpu_count() or 1, free // MEMORY)))


def line(v: "Verdict") -> str:
    found = v.raised or f"{v.output:.1e} {v.inputs:.1e} {v.parameters:.1e}"
    return f"{v.kernel:10} {v.sub_module:36} {v.precision:5} {v.length:5}  {found}  {'trusted' if v.trusted else 'NOT TRUSTED'}"
