"""What torch.compile makes of the reference kernels, beside the reference as it is and Triton's: each sub-module of an Evoformer
block whole, as the options of a plan are: seconds, bytes of its forward, bytes it keeps for backward, bytes of its backward.

    python benchmarks/compiled.py --json benchmarks/results/compiled_h100.json     # on a GPU, about a minute
    python benchmarks/compiled.py --tiny                                           # on a CPU, without Triton: that it runs

Each is compiled in a process of its own, all at once; when all are done, or after --patience seconds, they are measured one after the
other, on the device alone: as CUDA graphs. Expected on an H100 at (512, 384), bf16: forward and backward of all nine 85 ms by the
reference (its database), 45 to 55 compiled (the soft-max's logits stay in memory, but the steps around them are one kernel), 20 by
Triton; kept for backward 7.7 GiB by the reference, 6 to 8 compiled, 3.4 by Triton; 10 to 30 s to compile one with others beside it.
"""

import argparse
import contextlib
import datetime
import gc
import json
import os
import time
from collections.abc import Callable
from multiprocessing import get_context
from threading import BrokenBarrierError
from typing import Any

import torch
from torch import Tensor, nn

from foldfit.model import SUB_MODULES, SubModule
from foldfit.ops import KERNELS, Ops
from foldfit.profile.options import captured, repeated
from foldfit.runtime.graphs import stream_of
from foldfit.runtime.rows import view
from foldfit.stacks import stack_spec
from foldfit.stacks.spec import Axis, SubModuleSpec

SPECS = {spec.name: spec for spec in stack_spec("evoformer").sub_modules}
WHO = ("reference", "compiled", "triton")


def mapped(x: Tensor, axis: Axis) -> Tensor:
    """All rows, the mapped axis first."""
    return view(x, axis[1], 0, x.shape[axis[1]])


class Update(nn.Module):
    """A sub-module on all rows at once: the residual update of the state."""

    def __init__(self, spec: SubModuleSpec, module: SubModule, ops: Ops) -> None:
        super().__init__()
        self.module, self.ops = module, ops
        self.shares, self.reads, self.axis = spec.shares, spec.reads, spec.writes[1]

    def forward(self, state: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        shared: tuple[Tensor, ...] = ()
        if self.shares:
            name = self.shares[0]
            shared = self.module.share(mapped(state[name], self.shares), mapped(masks[name], self.shares), self.ops)
        x = tuple(mapped(state[axis[0]], axis) for axis in self.reads)
        main = self.reads[0]
        return self.module.update(x, mapped(masks[main[0]], main), shared, self.ops)


class Case:
    """One sub-module with random state."""

    def __init__(self, spec: SubModuleSpec, shape: tuple[int, int], device: str, dtype: torch.dtype) -> None:
        n_seq, n_res = shape
        lengths = {"m": (n_seq, n_res, 256), "z": (n_res, n_res, 128)}
        torch.manual_seed(0)
        self.spec, self.device = spec, device
        self.state = {n: torch.randn(lengths[n], device=device, dtype=dtype).requires_grad_() for n in sorted(spec.touches)}
        self.masks = {n: torch.ones(x.shape[:2], device=device, dtype=dtype) for n, x in self.state.items()}
        self.module = SUB_MODULES[spec.kind](spec).to(device, dtype)
        self.g = torch.randn_like(self.run(self.by("reference")))

    def by(self, who: str) -> Callable[..., Tensor]:
        f = Update(self.spec, self.module, KERNELS["triton" if who == "triton" else "reference"])
        return torch.compile(f, dynamic=False) if who == "compiled" else f

    @property
    def leaves(self) -> list[Tensor]:
        return [*self.state.values(), *self.module.parameters()]

    def run(self, f: Callable[..., Tensor]) -> Tensor:
        with torch.no_grad():
            return f(self.state, self.masks)

    def both(self, f: Callable[..., Tensor]) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(f(self.state, self.masks), self.leaves, self.g, allow_unused=True)

    def exact(self) -> list[Tensor]:
        """The update and the gradients of the state, by the reference in fp64."""
        f = Update(self.spec, SUB_MODULES[self.spec.kind](self.spec).to(self.device, torch.float64), KERNELS["reference"])
        f.module.load_state_dict(self.module.state_dict())
        state = {n: x.detach().double().requires_grad_() for n, x in self.state.items()}
        u = f(state, {n: x.double() for n, x in self.masks.items()})
        found = torch.autograd.grad(u, list(state.values()), self.g.double(), allow_unused=True)
        return [u.detach(), *(d for d in found if d is not None)]

    def error(self, f: Callable[..., Tensor], exact: list[Tensor]) -> float:
        """The largest of ||x - exact|| / ||exact||."""
        grads = self.both(f)[: len(self.state)]
        found = [self.run(f), *(d for d in grads if d is not None)]
        return max(float((x.double() - y).norm() / y.norm()) for x, y in zip(found, exact, strict=True))

    def bytes(self, f: Callable[..., Tensor]) -> dict[str, int]:
        """Beyond the state: `forward` and `inter`, the peak of a run without and with a graph; `saved`, what the graph keeps; `back`, the
        peak of its backward, what it keeps included."""
        cuda = torch.cuda
        clear()
        before = cuda.memory_allocated()
        out = {}
        cuda.reset_peak_memory_stats()
        self.run(f)
        out["forward"] = cuda.max_memory_allocated() - before
        cuda.reset_peak_memory_stats()
        u = f(self.state, self.masks)
        out["inter"] = cuda.max_memory_allocated() - before
        edge = torch.autograd.graph.get_gradient_edge(u)
        del u
        out["saved"] = cuda.memory_allocated() - before
        cuda.reset_peak_memory_stats()
        d = torch.autograd.grad(edge, self.leaves, self.g, allow_unused=True)
        out["back"] = cuda.max_memory_allocated() - before
        del d
        return out


def clear() -> None:
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()


def clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def milliseconds(run: Callable[[], Any]) -> tuple[float, str]:
    """The median on the device, kernels waiting in line: as a CUDA graph where it can be one."""
    try:
        graph = captured(run, None)
    except RuntimeError:  # what cannot be captured
        torch.cuda.synchronize()
        return 1e3 * repeated(run, clock), "eager"
    graph.replay()
    return 1e3 * repeated(graph.replay, clock), "graph"


def measured(case: Case, f: Callable[..., Tensor], exact: list[Tensor]) -> dict[str, Any]:
    row: dict[str, Any] = {"error": round(case.error(f, exact), 5)}
    if case.device == "cuda":
        row |= case.bytes(f)
        forward, by = milliseconds(lambda: case.run(f))
        both, by_both = milliseconds(lambda: case.both(f))
        row |= {"forward_ms": round(forward, 4), "both_ms": round(both, 4), "by": [by, by_both]}
    return row


def work(name: str, who: tuple[str, ...], shape: tuple[int, int], device: str, patience: float, ready: Any, turn: Any, rows: Any) -> None:
    """A process: compiles, waits for the others, measures."""
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # the processes are enough
    cuda = device == "cuda"
    # Autograd ties a leaf to the stream that it was first used on, and a capture wants one of its own.
    with torch.cuda.stream(stream_of(torch.device(device))) if cuda else contextlib.nullcontext():
        case = Case(SPECS[name], shape, device, torch.bfloat16 if cuda else torch.float32)
        made: dict[str, tuple[Callable[..., Tensor], float]] = {}
        failed: dict[str, str] = {}
        for each in who:
            try:
                start, f = time.perf_counter(), case.by(each)
                case.run(f)
                case.both(f)
                torch.cuda.synchronize() if cuda else None
                made[each] = f, time.perf_counter() - start
            except Exception as error:  # whatever a compiler does: its row says so
                failed[each] = f"{type(error).__name__}: {error}"[:300]
        clear() if cuda else None
        with contextlib.suppress(BrokenBarrierError):  # some are late: they measure when they are there
            ready.wait(patience)
        with turn:
            exact = case.exact()
            for each, (f, seconds) in made.items():
                try:
                    rows.put({"sub_module": name, "who": each, "first_s": round(seconds, 1)} | measured(case, f, exact))
                except Exception as error:  # as above
                    failed[each] = f"{type(error).__name__}: {error}"[:300]
            del exact
            clear() if cuda else None
    for each, text in failed.items():
        rows.put({"sub_module": name, "who": each, "failed": text})
    rows.put(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", nargs="*", default=list(SPECS))
    parser.add_argument("--patience", type=float, default=45, help="seconds for all to be compiled")
    parser.add_argument("--seconds", type=float, default=70, help="after which no more rows are waited for")
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    shape, device = ((8, 12), "cpu") if args.tiny else ((512, 384), "cuda")
    sets = [WHO[:2]] if args.tiny else [WHO[:2], WHO[2:]]
    context = get_context("spawn")
    rows, turn, ready = context.Queue(), context.Lock(), context.Barrier(len(args.only) * len(sets))
    given = shape, device, args.patience, ready, turn, rows
    workers = [context.Process(target=work, args=(name, who, *given), daemon=True) for name in args.only for who in sets]
    for worker in workers:
        worker.start()
    out: dict[str, Any] = {"benchmark": "compiled", "date": datetime.date.today().isoformat(), "torch": torch.__version__, "device": "cpu",
           "shape": shape, "state_bytes": 2 * (shape[0] * shape[1] * 256 + shape[1] ** 2 * 128), "rows": []}  # fmt: skip
    if device == "cuda":
        out["device"] = torch.cuda.get_device_name()
    left = len(workers)
    while left and time.monotonic() < end:
        try:
            row = rows.get(timeout=max(0.1, end - time.monotonic()))
        except Exception:  # nothing came in time
            break
        if row is None:
            left -= 1
            continue
        out["rows"].append(row)
        print(json.dumps(row), flush=True)
        if args.json:
            with open(args.json, "w") as file:
                json.dump(out, file, indent=1)
    for worker in workers:
        worker.kill()
    for each in WHO:
        of = [r for r in out["rows"] if r["who"] == each and "both_ms" in r]
        forward, both, saved = (sum(r[k] for r in of) for k in ("forward_ms", "both_ms", "saved"))
        print(f"{each}: {len(of)} sub-modules, forward {forward:.2f} ms, with backward {both:.2f} ms, kept {saved / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
