"""foldfit and its peers on one GPU, in one run: attention, triangle multiplication, a training step, inference. Checked first, then timed.

    python -m benchmarks.side_by_side --device H200 --json benchmarks/results/side_by_side_h200.json [--only attention step ...]

Peers that are not installed are rows that say so. Errors are ||x - x64|| / ||x64||, against fp64 for kernels, against the same
implementation in fp32 for stacks. Times are medians by CUDA events, on fresh random inputs, launched kernel by kernel and, for small
kernels of both sides, as CUDA graphs (`graph_ms`); peaks are those of PyTorch's allocator beyond what was alive before, for stacks with
inputs and parameters included. What the file has of other parts, measured on the same device and versions, stays in it.
"""

import argparse
import datetime
import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import triton
from torch import Tensor

from benchmarks.peers import cueq, openfold, pytorch
from foldfit.cost.devices import Device, find_device
from foldfit.errors import FoldfitError
from foldfit.model import SubModule
from foldfit.ops import KERNELS, Ops, triton_attention
from foldfit.planner.build import make_plan
from foldfit.planner.options import option_table
from foldfit.plans import Choice
from foldfit.problem import Problem, Stack
from foldfit.profile.options import Bench
from foldfit.runtime.job import job_of
from foldfit.runtime.measure import measure
from foldfit.runtime.parameters import bound, leaves_of
from foldfit.runtime.trunk import DTYPES

HEADS, DIM = 4, 32
LAUNCH_BOUND = 512
"""Tokens up to which kernels are timed as graphs too."""
LIMITS = (4e9, 6e9, 8e9, 11.7e9, 16e9, 24e9, 40e9, 60e9)
"""Of the frontier, bytes."""
PATIENCE = 5.0
"""Seconds after which no further run of a peer is timed."""
ABSENT = (ImportError, NotImplementedError, FoldfitError, torch.OutOfMemoryError, AssertionError, RuntimeError)
"""What a peer may say to sizes or flags that it does not take: its row says so."""


def relative(x: Tensor, expected: Tensor) -> float:
    return ((x.double() - expected).norm() / expected.norm()).item()


def timed(run: Callable[[], Any], long: bool = False) -> float:
    """Milliseconds."""
    return triton.testing.do_bench(run, warmup=1 if long else 25, rep=1 if long else 100, return_mode="median")


def replayed(run: Callable[[], Any]) -> float:
    """Milliseconds as a CUDA graph, whose kernels do not wait for the host."""
    return triton.testing.do_bench_cudagraph(run, rep=20, return_mode="median")


def as_graphs(forward: Callable[[], Any], both: Callable[[], Any]) -> dict:
    try:
        with torch.no_grad():
            row = {"forward_graph_ms": replayed(forward)}
        return row | {"both_graph_ms": replayed(both)}
    except ABSENT as error:
        return {"no_graph": str(error).split("\n")[0]}


def peak_of(run: Callable[[], Any]) -> int:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def differentiated(run: Callable[[], Tensor], d_out: Tensor, inputs: list[Tensor]) -> Callable[[], Any]:
    return lambda: torch.autograd.grad(run(), inputs, d_out)


def attention(rows: int, n: int, heads: int = HEADS, biased: bool = True) -> list[dict]:
    """Gated attention over `rows` of n tokens, bf16, with pair bias or without. FLOPs: the forward's two products, 4 rows n^2 h d."""
    ours = [x.requires_grad_() for x in torch.randn(rows, n, 4, heads, DIM, device="cuda", dtype=torch.bfloat16).unbind(2)]
    theirs = [x.detach().transpose(1, 2).contiguous().requires_grad_() for x in ours]
    bias = torch.randn(n, heads, n, device="cuda", dtype=torch.bfloat16).requires_grad_() if biased else None
    their_bias = bias.detach().transpose(0, 1)[None].contiguous().requires_grad_() if bias is not None else None
    d_out = torch.randn(rows, n, heads, DIM, device="cuda", dtype=torch.bfloat16)
    turned = d_out.transpose(1, 2).contiguous()
    if bias is not None and their_bias is not None:
        peer, their_run, their_inputs = "cuEq", partial(cueq.attention, *theirs, their_bias), [*theirs, their_bias]  # type: ignore[call-arg]
    else:
        peer, their_run, their_inputs = "PyTorch", partial(pytorch.attention, *theirs), theirs
    sides: dict[str, tuple] = {
        "foldfit": (partial(triton_attention.attention, *ours, bias, None), [*ours, *([bias] if biased else [])], d_out, lambda o: o),  # type: ignore[call-arg]
        peer: (their_run, their_inputs, turned, lambda o: o.transpose(1, 2)),
    }
    some = slice(0, 4)
    q, k, v, gate = (x[some].detach().double() for x in ours)
    logits = torch.einsum("rqhd,rkhd->rhqk", q, k) * DIM**-0.5
    if bias is not None:
        logits += bias.detach().double().transpose(0, 1)
    exact = gate.sigmoid() * torch.einsum("rhqk,rkhd->rqhd", logits.softmax(-1), v)
    del logits
    found = []
    for name, (run, inputs, gradient, seen) in sides.items():
        row: dict[str, Any] = {"what": "attention", "who": name, "rows": rows, "n_res": n, "heads": heads, "bias": biased}
        both = differentiated(run, gradient, inputs)
        try:
            with torch.no_grad():
                row["error"] = relative(seen(run())[some], exact)
                row["forward_ms"] = timed(run)
            row["tflops"] = 4 * rows * n**2 * heads * DIM / row["forward_ms"] / 1e9
            if n <= 1024:
                row["both_ms"] = timed(both)
        except ABSENT as error:
            found.append(row | {"absent": str(error).split("\n")[0]})
            continue
        found.append(row | (as_graphs(run, both) if n <= LAUNCH_BOUND else {}))
    return found


def triangle_row(row: dict, n: int, run: Callable[[], Tensor], z: Tensor, weights: list[Tensor]) -> dict:
    """Forward without a graph of autograd, forward + backward to 1024. Peaks in U, one pair tensor, z and what else is new included."""
    unit = n * n * 128 * 2
    with torch.no_grad():
        row["forward_ms"] = timed(run)
        row["forward_peak_u"] = (peak_of(run) + unit) / unit
    if n > 1024:
        return row
    both = differentiated(run, torch.randn_like(z), [z, *weights])
    return row | {"both_ms": timed(both)} | as_graphs(run, both)


def our_bench(n: int, device: Device) -> Bench:
    """Triangle multiplication (outgoing), bf16, with weights that do something."""
    problem = Problem(
        stacks=(Stack("evoformer", 1, 1),), n_res=n, mode="train", precision="bf16", parameters="bf16", memory=2**40, device=device.name,
        device_type="cuda",
    )  # fmt: skip
    stack = option_table(problem, replace(device, costs="modelled")).stacks[0]
    spec = next(sub.spec for sub in stack.sub_modules if sub.spec.name == "triangle_multiplication_outgoing")
    bench = Bench(problem, stack.shapes, spec)
    with torch.no_grad():
        for w in bench.module.parameters():
            w.copy_(torch.randn_like(w) * len(w) ** -0.5 if w.dim() > 1 else 1 + 0.1 * torch.randn_like(w))
    return bench


def our_triangle(n: int, device: Device) -> dict:
    """The update alone, as the peers compute it."""
    row: dict[str, Any] = {"what": "triangle", "who": "foldfit", "n_res": n}
    bench = our_bench(n, device)
    module = bound(bench.module, torch.bfloat16, leaves=True)
    z, mask = bench.state["z"][0].requires_grad_(), bench.masks["z"][0]

    def run(module: SubModule = module, x: Tensor = z, mask: Tensor = mask, ops: Ops = KERNELS["triton"]) -> Tensor:
        return module.update((x,), mask, module.share(x, mask, ops), ops)

    if n <= 512:
        with torch.no_grad():
            exact = run(bound(bench.module, torch.float64), z.double(), mask.double(), KERNELS["reference"])
            row["error"] = relative(run(), exact)
        del exact
    return triangle_row(row, n, run, z, leaves_of(module))


def our_triangle_in_place(n: int, device: Device, slices: int) -> dict:
    """With dropout, added to the pair where it lies, as a trunk runs it; forward in slices, forward + backward whole."""
    unit = n * n * 128 * 2
    row: dict[str, Any] = {"what": "triangle", "who": f"foldfit, dropout and residual, rows / {slices}", "n_res": n}
    bench = our_bench(n, device)
    choice = Choice("triton", n // slices, n // slices)

    def forward() -> None:
        bench.forward(choice)

    row["forward_ms"] = timed(forward)
    bench.settle()
    row["forward_peak_u"] = (peak_of(forward) + unit) / unit
    if n > 1024 or slices > 1:
        return row

    def both() -> None:
        bench.back(choice)

    return row | {"both_ms": timed(both)} | as_graphs(forward, both)


def their_triangle(n: int) -> dict:
    row: dict[str, Any] = {"what": "triangle", "who": "cuEq", "n_res": n}
    try:
        z = torch.randn(n, n, 128, device="cuda", dtype=torch.bfloat16).requires_grad_()
        mask = torch.ones(n, n, device="cuda", dtype=torch.bfloat16)
        weights = {name: w.requires_grad_() for name, w in cueq.triangle_weights(128, torch.bfloat16, "cuda").items()}
        run = partial(cueq.triangle, z, mask, weights)
        if n <= 512:
            exact = cueq.triangle_reference(z.detach().double(), mask.double(), {k: w.detach().double() for k, w in weights.items()})
            row["error"] = relative(run().detach(), exact)
            del exact
        return triangle_row(row, n, run, z, list(weights.values()))
    except ABSENT as error:
        return row | {"absent": str(error).split("\n")[0]}


def planned(
    row: dict, stack: str, n_seq: int, n_res: int, blocks: int, limit: float, device: Device, repeat: int = 3, **problem: Any
) -> dict:
    """A run of foldfit under a limit."""
    problem = {"mode": "train", "precision": "bf16", "launch": "graph", **problem}
    stored = {"tf32": "fp32"}.get(problem["precision"], problem["precision"])
    whole = Problem(
        stacks=(Stack(stack, blocks, n_seq),), n_res=n_res, parameters=stored, dropout=problem["mode"] == "train", memory=int(limit),
        device=device.name, device_type="cuda", **problem,
    )  # fmt: skip
    row |= {"who": "foldfit", "n_seq": n_seq, "n_res": n_res, "blocks": blocks, "limit": int(limit), **problem}
    try:
        plan = make_plan(option_table(whole, device))
        job = job_of(plan)
        m = measure(job.model, job.inputs, plan, repeat=repeat, warmup=1)
    except ABSENT as error:
        return row | {"absent": str(error).split("\n")[0]}
    return row | {
        "ms": m.seconds * 1e3, "peak": m.peak_bytes, "promised_peak": m.promised_peak_bytes, "promised_ms": m.promised_seconds * 1e3,
        "costs": plan.costs,
    }  # fmt: skip


def peer_stack(
    row: dict, name: str, n_seq: int, n_res: int, blocks: int, precision: str, train: bool, chunk: int | None = None, extra: bool = False
) -> dict:
    """A run of OpenFold's stack, recomputing each block in training; `extra`: of the extra MSA's."""
    dtype = DTYPES[precision]
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    row |= {"who": name, "n_seq": n_seq, "n_res": n_res, "blocks": blocks, "precision": precision, "mode": "train" if train else "infer"}
    try:
        model = openfold.stack(blocks, recompute=train, extra=extra).to("cuda", dtype).train(train)
        c_m = (openfold.EXTRA if extra else openfold.SIZES)["c_m"]
        m, z = (torch.randn(*s, device="cuda", dtype=dtype).requires_grad_(train) for s in ((n_seq, n_res, c_m), (n_res, n_res, 128)))
        d = [torch.randn_like(m), torch.randn_like(z)]

        def once() -> None:
            out = openfold.run(model, m, z, openfold.KERNELS[name], chunk)
            if train:
                torch.autograd.backward(out, d)
                model.zero_grad(set_to_none=True)
                m.grad = z.grad = None

        with torch.set_grad_enabled(train):
            once()
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            times = []
            while len(times) < 3 and sum(times) < PATIENCE:
                start = time.perf_counter()
                once()
                torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
        return row | {"ms": median(times) * 1e3, "peak": torch.cuda.max_memory_allocated()}
    except ABSENT as error:
        return row | {"absent": str(error).split("\n")[0]}


def same_as_fp32(name: str) -> dict:
    """The stack of a peer in bf16 against itself in fp32, two blocks: a run that is fast and wrong is no peer."""
    row: dict[str, Any] = {"what": "check", "who": name}
    torch.set_float32_matmul_precision("highest")
    try:
        model = openfold.stack(2, recompute=False).to("cuda").eval()
        for p in model.parameters():  # initialised to do nothing
            torch.nn.init.normal_(p, std=0.05)
        m, z = torch.randn(64, 128, 256, device="cuda"), torch.randn(128, 128, 128, device="cuda")
        with torch.no_grad():
            exact = openfold.run(model, m.clone(), z.clone(), {})
            got = openfold.run(model.bfloat16(), m.bfloat16(), z.bfloat16(), openfold.KERNELS[name])
        return row | {"error": max(relative(g, e.double()) for g, e in zip(got, exact, strict=True))}
    except ABSENT as error:
        return row | {"absent": str(error).split("\n")[0]}


def steps(device: Device) -> list[Callable[[], dict]]:
    """Ours first: a peer's step takes seconds."""
    room = 0.95 * (device.memory - device.reserved)
    shapes = ((128, 256, (3.297e9,)), (512, 256, (6.962e9,)), (512, 384, (11.7e9, room)))
    rows: list[Callable[[], dict]] = []
    for n_seq, n_res, limits in shapes:
        rows += [partial(planned, {"what": "step"}, "evoformer", n_seq, n_res, 48, limit, device) for limit in limits]
    for name in openfold.KERNELS:
        rows.append(partial(same_as_fp32, name))
        rows += [partial(peer_stack, {"what": "step"}, name, n_seq, n_res, 48, "bf16", True) for n_seq, n_res, _ in reversed(shapes)]
    return rows


def extra(device: Device) -> list[Callable[[], dict]]:
    """A step of the extra MSA's stack, of which peers have PyTorch's kernels alone."""
    shapes = ((1024, 256, 3.6e9), (1024, 384, 8.069e9), (5120, 384, 22.59e9))
    ours = [partial(planned, {"what": "extra"}, "extra_msa", n_seq, n_res, 4, limit, device) for n_seq, n_res, limit in shapes]
    theirs = [partial(peer_stack, {"what": "extra"}, "OpenFold", n_seq, n_res, 4, "bf16", True, extra=True) for n_seq, n_res, _ in shapes]
    return [*ours, partial(same_as_fp32, "OpenFold"), *theirs]


def frontier(device: Device) -> list[Callable[[], dict]]:
    """What memory buys: the step at (512, 384) under ever larger limits, each measured once."""
    return [partial(planned, {"what": "frontier"}, "evoformer", 512, 384, 48, limit, device, repeat=1) for limit in LIMITS]


def inference(device: Device) -> list[Callable[[], dict]]:
    rows: list[Callable[[], dict]] = []
    precisions = {"bf16": (3.6e9, 10.7e9), "tf32": (6.6e9, 25.7e9), "fp32": (6.6e9, 25.7e9)}
    for precision, limits in precisions.items():
        options: dict[str, Any] = {"mode": "infer", "precision": precision, "launch": "eager", "inputs": "overwritten"}
        rows += [partial(planned, {"what": "infer"}, "evoformer", 128, 2048, 4, limit, device, **options) for limit in limits]
    for precision in precisions:
        for name in list(openfold.KERNELS)[:2]:
            rows.append(partial(peer_stack, {"what": "infer"}, name, 128, 2048, 2, precision, False, 4 if name == "OpenFold" else 128))
    return rows


def longest(device: Device) -> list[Callable[[], dict]]:
    """One block in place: 10,000 residues in 61 GB, 15,000 on the card, which then has to be one of 140 GB."""
    room = device.memory - device.reserved
    options: dict[str, Any] = {"repeat": 0, "mode": "infer", "inputs": "overwritten", "launch": "eager"}
    return [
        partial(planned, {"what": "longest"}, "evoformer", 128, n, 1, limit, device, **options)
        for n, limit in ((10000, 61e9), (15000, room))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="H200")
    parser.add_argument("--costs", default="")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parts = ["attention", "triangle", "step", "extra", "frontier", "infer", "longest"]
    parser.add_argument("--only", nargs="+", default=parts, choices=parts)
    args = parser.parse_args()
    device = replace(find_device(args.device), costs=args.costs)
    sizes = (256, 384, 512, 1024, 2048)
    runs: dict[str, list[Callable[[], Any]]] = {
        "attention": [partial(attention, 512, 384, 8), partial(attention, 384, 512, 8, False), *(partial(attention, n, n) for n in sizes)],
        "triangle": [
            run
            for n in sizes
            for run in (
                partial(our_triangle, n, device),
                partial(their_triangle, n),
                *(partial(our_triangle_in_place, n, device, slices) for slices in (1, 32)),
            )
        ],
        "step": steps(device),
        "extra": extra(device),
        "frontier": frontier(device),
        "infer": inference(device),
        "longest": longest(device),
    }
    head = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__, "python": sys.version.split()[0],
    }  # fmt: skip
    rows = others(args.json, head, args.only) if args.json else []
    for part in args.only:
        for run in runs[part]:
            found = run()
            for row in found if isinstance(found, list) else [found]:
                rows.append({"part": part} | row)
                print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}), flush=True)
            gc.collect()
            torch.cuda.empty_cache()
            if args.json:
                args.json.write_text(json.dumps(head | {"date": datetime.date.today().isoformat(), "rows": rows}, indent=1) + "\n")


def others(file: Path, head: dict[str, str], parts: list[str]) -> list[dict]:
    """The rows of other parts that the file has from the same device and versions."""
    found = json.loads(file.read_text()) if file.is_file() else {}
    return [row for row in found.get("rows", []) if row.get("part", "") not in ("", *parts)] if head.items() <= found.items() else []


if __name__ == "__main__":
    main()
