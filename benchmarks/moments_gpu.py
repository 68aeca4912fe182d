"""The contract of every spec on a GPU: peak bytes of each sub-module, by each kernel, whole and in slices, against its moments.

    python benchmarks/moments_gpu.py --json benchmarks/results/moments_h200.json

On a CPU the same is tests/cost/test_contract.py, which holds the moments of what PyTorch shows there; here the allocator counts, and
what libraries take by themselves too. Prints the worst of each kernel and sub-module: above 1 a promise can be broken.
"""

import argparse
import datetime
import gc
import importlib.util
import json
import sys
from collections.abc import Iterator

import torch

from foldfit.cost.devices import find_device
from foldfit.cost.memory import sub_module_bytes
from foldfit.cost.sizes import shapes_of
from foldfit.planner.options import setting_of
from foldfit.plans import Choice
from foldfit.problem import Problem, Stack
from foldfit.profile.options import Bench
from foldfit.runtime import apply
from foldfit.runtime.executor import matmul_precision
from foldfit.runtime.meter import exact_allocator
from foldfit.stacks import SubModuleSpec

SIZES = {"evoformer": [(160, 256), (67, 213)], "extra_msa": [(320, 224)], "pairformer": [(0, 256)]}
PARTS = (1, 3)


class Peak:
    """Bytes that the allocator hands out beyond what it had at the beginning."""

    def __enter__(self) -> "Peak":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self.start = torch.cuda.memory_allocated()
        return self

    def __exit__(self, *error: object) -> None:
        torch.cuda.synchronize()

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated() - self.start

    def now(self) -> int:
        return torch.cuda.memory_allocated() - self.start


def ratios(bench: Bench, kernel: str, part: int, problem: Problem) -> Iterator[tuple[str, int, int]]:
    """(moment, promised, measured), where the kernel has it."""
    spec, shapes = bench.spec, shapes_of(problem, problem.stacks[0])[1]
    cost = spec.kernels[kernel]["cuda"]
    tensor, axis = spec.reads[0]
    shared = shapes.axes[spec.shares[0]][spec.shares[1]] if spec.shares else 0
    choice = Choice(kernel, -(-shapes.axes[tensor][axis] // part), -(-shared // part))
    promised, target = sub_module_bytes(spec, cost, choice, setting_of(problem, shapes)), bench.state[spec.writes[0]]
    apply.forward(bench.call(choice), bench.state, target)  # compiles, makes handles
    target.normal_()
    with Peak() as meter:
        apply.forward(bench.call(choice), bench.state, target)
        yield "forward", promised.forward, meter.peak()
    target.normal_()
    if not cost.update.record or problem.precision not in cost.recorded:
        return
    for again in (False, True):
        call = bench.call(choice)
        with Peak() as meter:
            version, kept = apply.record(call, bench.state)
            record, saved = meter.peak() - version.nbytes, meter.now() - version.nbytes
            del version
            torch.cuda.reset_peak_memory_stats()
            apply.backward(call, bench.state, kept, bench.grads, bench.gradients)
            back = meter.peak()
            del kept, call
        if again:
            yield "record", promised.inter, record
            yield "saved", promised.saved, saved
            yield "backward", promised.back, back
        for g in bench.grads.values():
            g.normal_()


def cases(stack: str, n_seq: int, n_res: int, precision: str, only: list[str]) -> Iterator[dict]:
    stored = {"tf32": "fp32"}.get(precision, precision)
    problem = Problem(
        stacks=(Stack(stack, 1, n_seq),), n_res=n_res, mode="train", precision=precision, parameters=stored,  # type: ignore[arg-type]
        dropout=True, memory=2**40, device=find_device("H100").name, device_type="cuda",
    )  # fmt: skip
    spec, shapes = shapes_of(problem, problem.stacks[0])
    for sub in spec.sub_modules:
        bench = None
        for kernel in sub.kernels:
            if (not only or kernel in only) and runs(sub, kernel, precision, shapes.axes):
                bench = bench or Bench(problem, shapes, sub)
                for part in PARTS:
                    row = {"sub_module": sub.name, "kernel": kernel, "precision": precision, "n_seq": n_seq, "n_res": n_res, "part": part}
                    try:
                        with matmul_precision(precision):
                            for moment, promised, measured in ratios(bench, kernel, part, problem):
                                yield row | {"moment": moment, "promised": promised, "measured": measured}
                    except Exception as error:  # one kernel that fails must not hide the others
                        yield row | {"moment": "failed", "error": f"{type(error).__name__}: {error}"}
        del bench
        gc.collect()


def runs(sub: SubModuleSpec, kernel: str, precision: str, axes: dict[str, tuple[int, ...]]) -> bool:
    cost = sub.kernels[kernel].get("cuda")
    other = axes[sub.reads[0][0]][sub.reads[0][1] - 1]
    if cost is None or precision not in cost.precisions or other % cost.multiple or other < cost.shortest:
        return False
    installed = not cost.package or importlib.util.find_spec(cost.package) is not None
    return installed and cost.made_for(sub.widths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precisions", nargs="+", default=["bf16", "tf32"])
    parser.add_argument("--kernels", nargs="+", default=[])
    parser.add_argument("--stacks", nargs="+", default=list(SIZES))
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    exact_allocator()
    rows: list[dict] = []
    for precision in args.precisions:
        for stack in args.stacks:
            for n_seq, n_res in SIZES[stack]:
                rows += cases(stack, n_seq, n_res, precision, args.kernels)
    worst: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        if row["moment"] == "failed":
            print(f"FAILED {row['kernel']} {row['sub_module']} {row['precision']} ({row['n_seq']}, {row['n_res']}): {row['error'][:300]}")
        else:
            found = worst.setdefault((row["kernel"], row["sub_module"]), {})
            found.setdefault(row["moment"], []).append(row["measured"] / max(row["promised"], 1))
    print(f"{torch.cuda.get_device_name()}: measured / promised, least and most")
    print(f"{'kernel':10} {'sub-module':36} forward      record       saved        backward")
    for (kernel, name), found in worst.items():
        text = [f"{min(found[m]):.3f}-{max(found[m]):.3f}" if m in found else "-" for m in ("forward", "record", "saved", "backward")]
        print(f"{kernel:10} {name:36} " + " ".join(f"{t:12}" for t in text))
    broken = [r for r in rows if r["moment"] != "failed" and r["measured"] > r["promised"]]
    print(f"{len(rows)} moments, {len(broken)} above the promise")
    for row in sorted(broken, key=lambda r: r["promised"] / r["measured"])[:20]:
        print({k: v for k, v in row.items()})
    if args.json:
        head = {"benchmark": "moments", "device": torch.cuda.get_device_name(), "torch": torch.__version__}
        head |= {"python": sys.version.split()[0], "date": datetime.date.today().isoformat()}
        with open(args.json, "w") as f:
            json.dump(head | {"rows": rows}, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
