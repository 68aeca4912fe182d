"""The Triton attention on a GPU: checked against fp64 at the real sizes, then timed; `--sweep` also times every launch configuration.

    python benchmarks/attention_gpu.py --out results [--sweep] [--rows 256 384 512 1024 2048]

Pair attention is r rows of r tokens, 4 heads of 32, with bias; column attention 512 rows of n sequences, 8 heads of 32, without.
FLOPs count the two matrix products of the forward, 4 r n n h d. Times are medians of CUDA-event times on fresh random inputs.
"""

import argparse
import json
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
import triton

from foldfit.ops import triton_attention as ta
from foldfit.ops import triton_attention_backward as tb

CUEQ_MS = {256: (0.34, 1.62), 384: (0.70, 2.87), 512: (1.15, 5.30), 1024: (6.80, 36.6), 2048: (56.1, None)}
COLUMNS = [(512, 128), (512, 512)]  # rows, sequences
PEAK = 812e12  # FLOP/s of a large bf16 matrix product on an NVIDIA H200

FORWARD = [
    ta.Tile(128, 32, 4, 3, 128),
    ta.Tile(64, 64, 4, 3, 128),
    ta.Tile(64, 32, 4, 3, 80),
    ta.Tile(64, 64, 4, 3, 128, ahead=True),
    ta.Tile(64, 64, 4, 3, 168, ahead=True),
    ta.Tile(64, 64, 4, 2, 168, ahead=True),
    ta.Tile(64, 32, 4, 3, 96, ahead=True),
    ta.Tile(128, 32, 4, 3, 168, ahead=True),
]
BACKWARD = [
    tb.Tiles(ta.Tile(32, 64, 4, 3, 128), ta.Tile(64, 64, 4, 3, 168), ta.Tile(64, 64, 4, 3, 128)),
    tb.Tiles(ta.Tile(32, 64, 4, 4, 128), ta.Tile(64, 64, 4, 2, 168), ta.Tile(64, 64, 4, 3, 120)),
    tb.Tiles(ta.Tile(64, 64, 4, 2, 168), ta.Tile(64, 32, 4, 4), ta.Tile(64, 32, 4, 4)),
]


def inputs(r: int, n: int, h: int, d: int, dtype: torch.dtype, bias: bool, mask: bool, padded: int = 0):
    """q, k, v, gate as slices of one projection; the last `padded` keys of every row are padding, and row 1 is nothing but."""
    q, k, v, gate = (x.requires_grad_() for x in torch.randn(r, n, 4, h, d, device="cuda").to(dtype).unbind(2))
    b = torch.randn(n, h, n, device="cuda").to(dtype).requires_grad_() if bias else None
    m = torch.ones(r, n, device="cuda", dtype=dtype) if mask else None
    if padded:
        m[:, n - padded :] = 0
        m[1 % r] = 0
    return q, k, v, gate, b, m


def reference(q, k, v, gate, bias, mask):
    """The soft-max materialised, in the inputs' precision; a padded key's logit is -1e9 exactly and passes its gradient on."""
    logits = torch.einsum("rqhd,rkhd->rhqk", q, k) * q.shape[-1] ** -0.5
    if bias is not None:
        logits = logits + bias.transpose(0, 1)
    if mask is not None:
        logits = logits + ((-1e9 - logits) * (mask == 0)[:, None, None, :]).detach()
    return gate.sigmoid() * torch.einsum("rhqk,rkhd->rqhd", logits.softmax(-1), v)


def errors(r: int, n: int, h: int, d: int, precision: str, bias: bool, padded: int | None) -> dict[str, float]:
    """||x - x64|| / ||x64|| of o and the gradients; padded None: no mask."""
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    x = inputs(r, n, h, d, dtype, bias, padded is not None, padded or 0)
    do = torch.randn(r, n, h, d, device="cuda").to(dtype)
    ta.attention(*x).backward(do)
    o = ta.attention(*x).detach()
    wide = [None if t is None else t.detach().double().requires_grad_() for t in x]
    o64 = reference(*wide)
    o64.backward(do.double())
    pairs = {"o": (o, o64.detach())}
    pairs |= {f"d{name}": (t.grad, w.grad) for name, t, w in zip(("q", "k", "v", "gate", "bias"), x, wide, strict=False) if t is not None}
    return {name: ((a.double() - b).norm() / b.norm()).item() for name, (a, b) in pairs.items()}


def workers() -> ProcessPoolExecutor:
    """Compiling is most of the work before the first time: so in processes, before anything is timed."""
    return ProcessPoolExecutor(14, mp_context=get_context("spawn"))


def median_ms(run, repeats: int = 20) -> float:
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for first, last in marks:
        first.record()
        run()
        last.record()
    torch.cuda.synchronize()
    return statistics.median(first.elapsed_time(last) for first, last in marks)


def kernel_ms(run, repeats: int = 5) -> dict[str, float]:
    """Median device time of every kernel that `run` launches, by name."""
    run()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(repeats):
            run()
        torch.cuda.synchronize()
    times: dict[str, list[float]] = {}
    for event in profile.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            times.setdefault(event.name, []).append(event.time_range.elapsed_us() / 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def graph_ms(run) -> float:
    """Replays of a CUDA graph: the device's time without the launches'."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return median_ms(graph.replay)


def step(x, do, tile=None, tiles=None) -> None:
    """Forward and backward, past autograd."""
    q, k, v, gate, bias, mask = x
    lead = ta.leading_keys(mask)
    o, lse = ta.attention_forward(q, k, v, gate, bias, mask, lead, keep=True, tile=tile)
    tb.attention_backward(do, q, k, v, gate, bias, mask, lead, o, lse, tiles=tiles)


def compile_one(job) -> str:
    """Fills Triton's cache for one configuration, in a process of its own."""
    (n, h, bias), tile, tiles = job
    try:
        x = [t if t is None else t.detach() for t in inputs(16, n, h, 32, torch.bfloat16, bias, True)]
        for mask in (x[5], None):
            step((*x[:5], mask), torch.randn_like(x[0]).contiguous(), tile, tiles)
        return ""
    except Exception as e:  # a configuration that does not fit the device is a row of the table
        return f"{tile or tiles}: {str(e)[-200:]}"


def sweep(rows: list[int]) -> list[dict]:
    jobs = [((256, 4, True), tile, None) for tile in FORWARD] + [((256, 4, True), None, tiles) for tiles in BACKWARD]
    jobs += [((512, 8, False), tile, None) for tile in FORWARD]
    with workers() as pool:
        failed = [message for message in pool.map(compile_one, jobs) if message]
    print(*failed, sep="\n")
    table = []
    for r, n, h, bias in [*((r, r, 4, True) for r in rows), *((r, n, 8, False) for r, n in COLUMNS)]:
        x = [t if t is None else t.detach() for t in inputs(r, n, h, 32, torch.bfloat16, bias, True)]
        do = torch.randn_like(x[0]).contiguous()
        for tile in FORWARD:
            try:
                row = {"r": r, "n": n, "kernel": "forward", "tile": str(tile)}
                for name, mask in (("ms", None), ("masked_ms", x[5])):
                    row[name] = median_ms(partial(ta.attention_forward, *x[:5], mask, None, True, tile), 20 if r < 2048 else 5)  # type: ignore[call-arg]
                table.append(row | {"tflops": 4 * r * n * n * h * 32 / row["ms"] / 1e9})
            except Exception as e:
                print(tile, str(e)[-100:])
        for tiles in BACKWARD if r <= 1024 and bias else []:
            try:
                for name, ms in kernel_ms(partial(step, x, do, None, tiles)).items():
                    kernel = name.removesuffix("_kernel")
                    row = {"r": r, "n": n, "kernel": name, "tile": str(getattr(tiles, kernel, "")), "masked_ms": ms}
                    table.append(row)
            except Exception as e:
                print(tiles, str(e)[-100:])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 384, 512, 1024, 2048])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.time()
    result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__, "date": "2026-11-23"}

    result["errors"] = []
    cases = [(8, n, 4, 32, p, True, pad) for n, pad in ((256, None), (384, 100), (1001, 7)) for p in ta.TOLERANCE]
    cases += [(2, 2048, 4, 32, "bf16", True, 300), (16, 512, 8, 32, "bf16", False, None), (16, 515, 8, 8, "bf16", False, 5)]
    cases += [(4, 300, 2, d, p, True, 40) for d in (8, 16, 48, 64) for p in ("bf16", "tf32")]
    with workers() as pool:
        every = list(pool.map(errors, *zip(*cases, strict=True)))
    for case, found in zip(cases, every, strict=True):
        wrong = {name: e for name, e in found.items() if not e <= ta.TOLERANCE[case[4]]}
        result["errors"].append({"case": case, "errors": found})
        print(case, "WRONG" if wrong else "ok", " ".join(f"{name} {e:.1e}" for name, e in (wrong or found).items()), flush=True)
    print(f"{time.time() - began:.0f} s", flush=True)

    result["times"] = []
    for r, n, h, bias in [*((r, r, 4, True) for r in args.rows), *((r, n, 8, False) for r, n in COLUMNS)]:
        x = inputs(r, n, h, 32, torch.bfloat16, bias, True)
        flat = [t if t is None else t.detach() for t in x]
        row = {"r": r, "n": n, "heads": h, "flops": 4 * r * n * n * h * 32}
        row["forward_ms"] = median_ms(lambda x=flat: ta.attention(*x[:5], None))  # type: ignore[call-arg]
        row["forward_masked_ms"] = median_ms(lambda x=flat: ta.attention(*x))
        row["tflops"] = row["flops"] / row["forward_ms"] / 1e9
        do = torch.randn_like(flat[0]).contiguous()
        base = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        row["both_ms"] = median_ms(lambda x=x, do=do: torch.autograd.grad(ta.attention(*x), [t for t in x[:5] if t is not None], do))
        row["peak_mb"] = (torch.cuda.max_memory_allocated() - base) / 1e6
        row["both_graph_ms"] = graph_ms(partial(step, flat, do))
        row["kernels_ms"] = kernel_ms(partial(step, flat, do))
        cueq = CUEQ_MS.get(r, (None, None)) if bias else (None, None)
        row |= {"cueq_forward_ms": cueq[0], "cueq_both_ms": cueq[1]}
        result["times"].append(row)
        ratio = "" if cueq[1] is None else f" ({row['both_ms'] / cueq[1]:.2f} of cuEq)"
        print(
            f"r {r} n {n}: forward {row['forward_ms']:.3f} ms, masked {row['forward_masked_ms']:.3f}, "
            f"{row['tflops']:.0f} TFLOP/s, {100e12 * row['tflops'] / PEAK:.0f} %; both {row['both_ms']:.3f} ms{ratio}, "
            f"as a graph {row['both_graph_ms']:.3f}; peak {row['peak_mb']:.0f} MB; "
            + " ".join(f"{name[:14]} {ms:.3f}" for name, ms in row["kernels_ms"].items()),
            flush=True,
        )
        del x, flat, do
    print(f"{time.time() - began:.0f} s", flush=True)
    (args.out / "attention.json").write_text(json.dumps(result))
    if args.sweep:
        table = sweep([256, 1024] if len(args.rows) > 1 else args.rows)
        (args.out / "attention_sweep.json").write_text(json.dumps(table, indent=1))
        for row in sorted(table, key=lambda row: (row["r"], row["n"], row["kernel"], row.get("ms", row["masked_ms"]))):
            print(" ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
        print(f"{time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
