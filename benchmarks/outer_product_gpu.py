"""The outer product mean's forward on NVIDIA Hopper: the plain Triton kernel beside Hopper's, each against fp64, then timed.

    python benchmarks/outer_product_gpu.py

bf16, 32 channels into 128, added in place to a pair of r x r. FLOPs count both matrix products, r r (2 n 32 32 + 2 32 32 128). Times are
medians of triton.testing.do_bench, inputs in turn.
"""

import itertools

import torch
import triton
from triton.testing import do_bench

from foldfit.ops import hopper_outer_product as hopper
from foldfit.ops import triton_outer_product as plain
from foldfit.ops.onto import onto
from foldfit.ops.triton_residual import placed

SIZES = ((128, 256), (128, 384), (512, 256), (512, 384), (128, 2048))
"""Sequences, residues."""
PLAIN, HOPPER = "ops/triton_outer_product.py", "ops/hopper_outer_product.py"
CHECKED = 8
"""Rows of the pair compared with fp64: all outer products of a large one fit no card."""
Given = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def inputs(n: int, r: int) -> Given:
    """a, b, w, w_b, scale, for updates of order 1."""
    a, b, w, w_b = (torch.randn(*shape, device="cuda") for shape in ((r, 32, n), (r, 32, n), (32, 32, 128), (128,)))
    a, b, w, w_b, scale = (x.to(torch.bfloat16) for x in (a, b / n**0.5, w / 32, w_b, torch.rand(r, r, device="cuda") + 0.5))
    return a, b, w, w_b, scale


def add(kernel: str, given: Given, z: torch.Tensor) -> None:
    if kernel == HOPPER:
        return hopper.forward(*given, placed(z, z, None))
    with onto(z, z, None):
        plain.forward(*given)


def error(kernel: str, given: Given) -> float:
    """||x - x64|| / ||x64|| of an update of nothing."""
    a, b, w, w_b, scale = (x[-CHECKED:] if i in (0, 4) else x for i, x in enumerate(given))
    z = torch.zeros(len(given[0]), len(b), 128, device="cuda", dtype=torch.bfloat16)
    add(kernel, given, z)
    outer = torch.einsum("ron,Rpn->rRop", a.double(), b.double()).flatten(2)
    expected = (outer @ w.double().flatten(0, 1) + w_b.double()) * scale.double()[..., None]
    return ((z[-CHECKED:].double() - expected).norm() / expected.norm()).item()


def milliseconds(kernel: str, turns: list[tuple[Given, torch.Tensor]]) -> float:
    turn = itertools.cycle(turns)
    return do_bench(lambda: add(kernel, *next(turn)), warmup=15, rep=80, return_mode="median")


@torch.no_grad()
def main() -> None:
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Triton {triton.__version__}")
    plain.on_hopper = lambda x: False  # so that its own kernel runs
    for n, r in SIZES:
        turns = [(inputs(n, r), torch.zeros(r, r, 128, device="cuda", dtype=torch.bfloat16)) for _ in range(3)]
        flops = r * r * 2 * 32 * 32 * (n + 128)
        for kernel in (PLAIN, HOPPER):
            ms, off = milliseconds(kernel, turns), error(kernel, turns[0][0])
            print(f"n_seq {n:4} n_res {r:5} {kernel:32} {ms:7.4f} ms {flops / ms / 1e9:4.0f} TFLOP/s  error {off:.1e}")


if __name__ == "__main__":
    main()
