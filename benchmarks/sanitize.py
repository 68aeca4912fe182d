"""Every Triton and Gluon kernel once under NVIDIA's compute-sanitizer, at small sizes that no tile divides: memcheck, racecheck.

    python -m benchmarks.sanitize -o DIR [--precisions bf16 fp32] [--tools memcheck racecheck] [--minutes 2]

Sub-modules forward and backward in slices, with masks and dropout; every tensor has an allocation of its own, so that nothing lies
beyond its end. `control` reads there on purpose. A process each: first without the tool, to compile, then with it. What the tool says
in full: DIR/*.txt; which kernels ran: DIR/*.json.

racecheck does not follow all that warps may wait for each other by: it reports races in cuBLAS's own kernels for Hopper (nvjet: left
out), and in `hopper_attention` between the stores and loads of the byte by which Triton starts and ends the groups of a
`warp_specialize`, though a barrier of all threads stands between them in the machine code.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
import triton
import triton.language as tl
from triton.runtime.jit import JITFunction

from foldfit.plans import Choice
from foldfit.profile import kernel_check
from foldfit.runtime import apply
from foldfit.runtime.apply import Call
from foldfit.runtime.dropout import drop_mask
from foldfit.runtime.executor import matmul_precision
from foldfit.runtime.parameters import Gradients

kernel_check.N_SEQ, kernel_check.N_RES = 19, 67
ROWS = 29
"""Of a slice: three of n_res, one of n_seq."""
PLACES = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer", "/opt/nvidia/compute-sanitizer")


def cases(precisions: list[str]) -> dict[str, list[kernel_check.Case]]:
    """Mark -> what has it, by Triton."""
    out: dict[str, list[kernel_check.Case]] = {}
    for case in kernel_check.cases("cuda", precisions):
        if case.kernel == "triton" and case.length < 1000:
            out.setdefault(case.mark, []).append(case)
    return out


def run_case(case: kernel_check.Case) -> None:
    """Forward in place, recorded and back."""
    module, state, masks, grads = kernel_check.given(case, "cuda")
    sub, drop = case.sub, None
    if sub.dropout:
        (name, axis), seed = sub.writes, torch.zeros((), dtype=torch.int64, device="cuda")
        drop = drop_mask(sub, (case.axes[name][axis], case.axes[name][1 - axis]), seed, (0,), masks[name])
    call = Call(module, Choice("triton", ROWS, ROWS if sub.shares else 0), masks, drop)
    with matmul_precision(case.precision):
        version, kept = apply.record(call, state)
        apply.backward(call, state, kept, grads, Gradients(list(module.parameters())))
        apply.forward(call, state, state[sub.writes[0]])
    del version


def run_hopper() -> None:
    """The attention forward for NVIDIA Hopper, which is short enough here for no plan to take it."""
    from foldfit.ops import hopper_attention, triton_attention

    for n, biased, masked in ((131, True, True), (131, True, False), (128, False, False)):
        q, k, v, gate = torch.randn(3, n, 4, 2, 32, device="cuda", dtype=torch.bfloat16).unbind(2)
        bias = torch.randn(n, 2, n, device="cuda", dtype=torch.bfloat16) if biased else None
        mask = (torch.rand(3, n, device="cuda") > 0.2).to(torch.bfloat16) if masked else None
        hopper_attention.attention_forward(q, k, v, gate, bias, mask, triton_attention.leading_keys(mask), True)


def run_hopper_outer_product() -> None:
    """The outer product mean for NVIDIA Hopper where residues are whole eights, which no slice here has."""
    from foldfit.ops.onto import onto
    from foldfit.ops.triton_outer_product import outer_product

    for n, r, rows in ((48, 72, 67), (400, 40, 67)):
        shapes = ((r, 32, n), (rows, 32, n), (32, 32, 128), (128,), (r, rows), (r, rows, 128))
        *given, z = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for shape in shapes)
        with torch.no_grad(), onto(z, z, None):
            outer_product(*given)


@triton.jit
def beyond_kernel(x, out, n, BLOCK: tl.constexpr):
    """Sums n values and what comes after them."""
    at = tl.arange(0, BLOCK)
    tl.store(out, tl.sum(tl.load(x + at, mask=at < 2 * n, other=0.0)))


def run_control() -> None:
    x = torch.zeros(128, device="cuda")
    beyond_kernel[(1,)](x, torch.empty(1, device="cuda"), 128, BLOCK=256)


EXTRA: dict[str, Callable[[], None]] = {
    "hopper_attention": run_hopper,
    "hopper_outer_product": run_hopper_outer_product,
    "control": run_control,
}


def one(mark: str, found: Path) -> None:
    """Runs what has this mark, and says which kernels that launched."""
    if mark in EXTRA:
        EXTRA[mark]()
    else:
        for case in cases([mark.split()[-1]])[mark]:
            run_case(case)
            if case.sub.kind == "triangle_multiplication":  # on Hopper by kernels of its own, at multiples of eight
                run_case(replace(case, axes=kernel_check.stretched(case.axes, case.sub.reads[0], 1, 8)))
    torch.cuda.synchronize()
    found.write_text(json.dumps(sorted(launched())))


def kernels() -> dict[str, JITFunction]:
    """Of all modules that are imported, by module and name."""
    modules = [m for m in list(sys.modules.values()) if m.__name__.startswith(("foldfit.", "__main__"))]
    return {
        f"{module.__name__.rpartition('.')[2]}.{name}": f
        for module in modules
        for name, f in vars(module).items()
        if isinstance(f, JITFunction) and f.__module__ == module.__name__
    }


def launched() -> set[str]:
    return {name for name, f in kernels().items() if any(compiled[0] for compiled in f.device_caches.values())}


def never_launched(seen: set[str]) -> list[str]:
    """Kernels by their name, of all modules of foldfit.ops."""
    import importlib
    import pkgutil

    import foldfit.ops

    for module in pkgutil.iter_modules(foldfit.ops.__path__):
        importlib.import_module(f"foldfit.ops.{module.name}")
    return sorted(name for name in kernels() if name.endswith("_kernel") and name not in seen and not name.startswith("__main__"))


def command(sanitizer: str, name: str) -> list[str]:
    """Of one tool. Between allocations there is room that is nobody's."""
    if name == "memcheck":
        return [sanitizer, "--tool", name, "--padding", "4096"]
    help = subprocess.run([sanitizer, "--help"], capture_output=True, text=True).stdout
    exclude = next((flag for flag in ("--kernel-name-exclude", "--kernel-regex-exclude") if flag in help), None)
    return [sanitizer, "--tool", name, *([exclude, "kns=nvjet"] if exclude and name == "racecheck" else [])]


def blamed(text: str) -> str:
    """Kernels that the tool's errors name."""
    return ", ".join(sorted(set(re.findall(r"=+ .*\bat (?:void )?([\w:]+)\+0x", text))))


def tool() -> str:
    where = os.pathsep.join((os.environ.get("PATH", ""), *PLACES))
    found = shutil.which("compute-sanitizer", path=where)
    if not found:
        raise SystemExit("no compute-sanitizer here: it comes with the CUDA toolkit")
    return found


def process(mark: str, folder: Path, by: list[str], until: float) -> tuple[str, float]:
    """What it printed, and its seconds."""
    name = f"{mark.replace(' ', '-')}{'-' + by[2] if by else '-plain'}"
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "CUDA_MODULE_LOADING": "LAZY"}
    whole = [*by, sys.executable, "-m", "benchmarks.sanitize", "-o", str(folder), "--one", mark, str(folder / f"{name}.json")]
    start, out = time.monotonic(), folder / f"{name}.txt"
    with open(out, "w") as file:
        try:
            code = subprocess.run(whole, env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=max(1.0, until - start)).returncode
        except subprocess.TimeoutExpired:
            return "ended by the time limit", time.monotonic() - start
    text = out.read_text()
    summaries = [line.strip("= ") for line in text.splitlines() if "SUMMARY" in line]
    last = (text.strip().splitlines() or ["nothing said"])[-1]
    said = "; ".join(summaries) + (f" in {blamed(text)}" if blamed(text) else "")
    return said or ("ran" if code == 0 else f"exit code {code}: {last}"), time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--precisions", nargs="+", default=["bf16"], choices=list(kernel_check.TOLERANCE))
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="what has one of these in its name")
    parser.add_argument("--tools", nargs="+", default=["memcheck", "racecheck"])
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--one", nargs=2, metavar=("MARK", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return one(args.one[0], Path(args.one[1]))
    until = time.monotonic() + 60 * args.minutes
    args.output.mkdir(parents=True, exist_ok=True)
    sanitizer, marks = tool(), [m for m in (*EXTRA, *cases(args.precisions)) if not args.only or any(text in m for text in args.only)]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Triton {triton.__version__}, {datetime.date.today().isoformat()}")
    seen: set[str] = set()
    with ThreadPoolExecutor(args.processes) as pool:
        plain = {mark: pool.submit(process, mark, args.output, [], until) for mark in marks}
        checked = {}
        for t in args.tools:  # one tool for all before the next
            by = command(sanitizer, t)
            for mark in marks:
                plain[mark].result()
                checked[mark, t] = pool.submit(process, mark, args.output, by, until)
        for mark in marks:
            found = args.output / f"{mark.replace(' ', '-')}-plain.json"
            names = json.loads(found.read_text()) if found.is_file() else []
            seen.update(names)
            print(f"{mark:34} {'no tool':10} {plain[mark].result()[1]:4.0f} s  {plain[mark].result()[0]}: {', '.join(names)}")
            for t in args.tools:
                said, seconds = checked[mark, t].result()
                print(f"{mark:34} {t:10} {seconds:4.0f} s  {said}", flush=True)
    if " 0 errors" in checked.get(("control", "memcheck"), plain[marks[0]]).result()[0]:
        print("memcheck did not see what `control` does wrong: what it says of the others means nothing")
    print(f"never launched: {', '.join(never_launched(seen)) or 'none'}")


if __name__ == "__main__":
    main()
