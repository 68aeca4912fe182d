"""Traces a sub-module and prints the `Phase`s of its kernel for stacks/*_kernels.py.

    python -m foldfit.profile.moments triangle_attention [KERNEL]

Every role letter gets a prime for a size, so that a tensor's number of elements says its dims. Matrix products (`matmuls`)
are written by hand; the contract test (tests/cost/test_contract.py) holds all of it.
"""

import argparse
import sys
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter

from foldfit.model import SUB_MODULES, SubModule
from foldfit.ops import KERNELS
from foldfit.ops.onto import onto
from foldfit.runtime.meter import TensorMeter
from foldfit.stacks import SubModuleSpec
from foldfit.stacks.attention import attention, global_attention, single_attention
from foldfit.stacks.pair import outer_product_mean, swiglu_transition, transition, triangle_multiplication

PRIMES = {"r": 5, "R": 37, "n": 31, "c": 13, "z": 29, "h": 2, "d": 3, "u": 17, "o": 19, "p": 23, "x": 11}
ORDER = "rRnkhdxcuozpe"
P = PRIMES
SPECS = {
    "row_attention": lambda: attention("x", "", ("m", 0), P["c"], P["h"], P["d"], bias_from=("z", 0), c_bias=P["z"]),
    "column_attention": lambda: attention("x", "", ("m", 0), P["c"], P["h"], P["d"]),
    "triangle_attention": lambda: attention("x", "", ("z", 0), P["c"], P["h"], P["d"], bias_from=("z", 0)),
    "global_attention": lambda: global_attention("x", "", ("e", 0), P["c"], P["h"], P["d"]),
    "single_attention": lambda: single_attention("x", "", ("s", 0), ("z", 0), P["c"], P["z"], P["h"], P["d"]),
    "triangle_multiplication": lambda: triangle_multiplication("x", "", ("z", 0), P["c"], P["u"]),
    "outer_product_mean": lambda: outer_product_mean("x", "", "m", P["c"], P["z"], P["o"]),
    "transition": lambda: transition("x", "", "m", P["c"], P["u"]),
    "swiglu_transition": lambda: swiglu_transition("x", "", "z", P["c"], P["u"]),
}


def interpret_in_place() -> None:
    """Triton's interpreter without its copies of arguments, which on a CPU are no copies but show up in a trace."""
    from triton.runtime.interpreter import GridExecutor

    GridExecutor._init_args_hst = lambda self, args, kwargs: (args, kwargs)
    GridExecutor._restore_args_dev = lambda self, *args: None


class Tracer(TensorMeter):
    """Keeps the dims of all tensors alive after every operation, and those each operation reads and writes."""

    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__()
        self.letters = {size: letter for letter, size in sizes.items()}
        self.names: dict[int, str] = {}
        self.moments: list[Counter[str]] = []
        self.moves: Counter[str] = Counter()
        self.calls, self.op = 0, ""

    def dims(self, x: Tensor) -> str:
        rest, out = x.untyped_storage().nbytes() // x.element_size() if x.is_contiguous() else x.numel(), []
        for size in sorted(self.letters, reverse=True):
            while rest and rest % size == 0:
                out.append(self.letters[size])
                rest //= size
        words = " ".join(sorted(out, key=ORDER.index)).replace("h d", "e")
        statistics = "native_layer_norm.default" in self.op and x.shape[-1] == 1
        return ("f32 " if x.dtype == torch.float32 or statistics else "") + (words if rest == 1 else f"{rest} {words}")

    def adopt(self, x: Tensor) -> None:
        if x.untyped_storage()._cdata not in self.live:
            self.names[x.untyped_storage()._cdata] = self.dims(x)
        super().adopt(x)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.op = str(func)
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if not func.is_view and "view" not in self.op and "detach" not in self.op:
            self.calls += 1
            self.moves.update(self.dims(x) for x in tree_iter((args, kwargs, out)) if isinstance(x, Tensor))
        self.moments.append(self.alive())
        return out

    def alive(self) -> Counter[str]:
        return Counter(self.names[key] for key in self.live)


def largest(moments: list[Counter[str]]) -> list[Counter[str]]:
    """Those that no other one contains."""
    out: list[Counter[str]] = []
    for m in moments:
        if not any(m <= other for other in out):
            out = [other for other in out if not other <= m] + [m]
    return out


def expression(kind: str, dims: Counter[str]) -> str:
    terms = []
    for words, count in sorted(dims.items(), key=lambda item: (-len(item[0].removeprefix("f32 ").replace("e", "h d").split()), item[0])):
        plain = words.removeprefix("f32 ").replace("r n n h", "r h n k").replace("n n h", "n h k").replace("n n u", "R n u")
        if kind == "single_attention":
            plain = plain.replace("r R h", "r h k").replace("r R z", "r k z").replace("R", "k")
        if plain:
            terms.append(("f32 " if words.startswith("f32") else "") + (f"{count} " if count > 1 else "") + plain)
    return " + ".join(terms)


def calls_of(spec: SubModuleSpec, module: SubModule, kernel: str, sizes: dict[str, int]) -> dict[str, tuple[Any, list[Tensor], int]]:
    """Phase -> (the call, its inputs, how many of them, at the end, have no gradient)."""
    n, r, whole = sizes["n"], sizes["r"], sizes["R"]
    ops = KERNELS[kernel]

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float16)

    c, single = sizes["c"], spec.kind == "single_attention"
    x = [rand(r, c), rand(r, whole, sizes["z"])] if single else [rand(r, n, c)]
    mask = torch.ones(r, *(() if single else (n,)), dtype=torch.float16)
    lengths = {**sizes, "e": sizes["h"] * sizes["d"], "R": n if "attention" in spec.kind and not single else whole}
    shared = [rand(*(lengths[d] for d in dims.split())) for dims in spec.shared]
    if single:
        shared = [s.view(whole, sizes["h"], sizes["d"]) if s.dim() == 2 else s for s in shared]
    split = len(x)
    out: dict[str, tuple[Any, list[Tensor], int]] = {
        "update": (lambda a: (module.update(tuple(a[:split]), mask, tuple(a[split:]), ops),), x + shared, spec.shared_masks)
    }
    if spec.shares:
        rows = rand(r, c) if single else rand(r, n, sizes["z"] if spec.kind == "row_attention" else c)
        out = {"share": (lambda a: module.share(a[0], mask, ops), [rows], 0), **out}
    return out


def print_phase(phase: str, module: SubModule, call: Any, inputs: list[Tensor], masks: int, sizes: dict[str, int]) -> None:
    kind = module.spec.kind
    with torch.no_grad():
        (target, *_) = call(inputs)
        end: AbstractContextManager[object] = onto(target, target, None) if phase == "update" else nullcontext()
        tracer = Tracer(sizes)
        with end, tracer:
            call(inputs)
    print(f"{phase.upper()} = Phase(\n    matmuls=(),\n    moves={expression(kind, tracer.moves)!r},\n    calls={tracer.calls},")
    forward = largest(tracer.moments)
    leaves = [x.clone().requires_grad_(i < len(inputs) - masks) for i, x in enumerate(inputs)]
    tracer = Tracer(sizes)
    with tracer:
        out = [o for o in call(leaves) if o.requires_grad]
        record = largest(tracer.moments)
        edges = [torch.autograd.graph.get_gradient_edge(o) for o in out]
        shapes = [o.shape for o in out]
        del out
        saved = tracer.alive()
    grads = [torch.ones(shape, dtype=torch.float16) for shape in shapes]
    tracer.moments, tracer.moves, tracer.calls = [], Counter(), 0
    wanted = [x for x in leaves if x.requires_grad] + list(module.parameters())
    with tracer:
        kept = torch.autograd.grad(edges, wanted, grads, allow_unused=True)
    print(f"    back_moves={expression(kind, tracer.moves)!r},\n    back_calls={tracer.calls},")
    for name, moments in (("forward", forward), ("record", record), ("backward", largest(tracer.moments))):
        print(f"    {name}=(", *(f"        {expression(kind, m)!r}," for m in moments), "    ),", sep="\n")
        if name == "record":
            print(f"    saved={expression(kind, saved)!r},")
    print(")")
    del kept


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m foldfit.profile.moments", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("kind", choices=SPECS)
    parser.add_argument("kernel", nargs="?", default="reference", choices=KERNELS)
    args = parser.parse_args(argv)
    sizes = dict(PRIMES)
    if args.kernel == "triton":
        interpret_in_place()
        sizes["d"] = sizes.pop("x")  # its head dims begin at 8
        PRIMES["d"] = sizes["d"]
    spec = SPECS[args.kind]()
    if args.kind == "triangle_multiplication":
        sizes["R"] = sizes["n"]
    if args.kind == "outer_product_mean":
        spec.widths["p"] = sizes["p"]
    module = SUB_MODULES[spec.kind](spec).half()
    for phase, (call, inputs, masks) in calls_of(spec, module, args.kernel, sizes).items():
        print_phase(phase, module, call, inputs, masks, sizes)


if __name__ == "__main__":
    main(sys.argv[1:])
