"""Checks hopper_outer_product.py beside this against fp64 and times it and the plain kernel. Needs foldfit on PYTHONPATH and a Hopper GPU.

python check.py [checks] [times]; without arguments both.
"""

import itertools
import os
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import hopper_outer_product as hop
import torch
import triton
from triton.testing import do_bench

from foldfit.ops import triton_outer_product as old
from foldfit.ops.onto import onto
from foldfit.ops.triton_residual import placed

T = hop.Tile
VARIANTS = {
    "seq 1x2": T((1, 2)),
    "half 1x2": T((1, 2), 2),
    "seq 1x2 no prefetch": T((1, 2), 1, False),
    "seq 2x1": T((2, 1)),
    "half 1x2 no prefetch": T((1, 2), 2, False),
    "seq 2x1 no prefetch": T((2, 1), 1, False),
}
BF = torch.bfloat16
START = time.time()


def inputs(n, r, rows, seed=0):
    torch.manual_seed(seed)
    new = lambda *s: torch.randn(*s, device="cuda")
    a, b = new(r, 32, n).to(BF), (new(rows, 32, n) / n**0.5).to(BF)
    return a, b, (new(32, 32, 128) / 32).to(BF), new(128).to(BF), (torch.rand(r, rows, device="cuda") + 0.5).to(BF)


def reference(a, b, w, w_b, scale):
    r, rows, n = len(a), len(b), a.shape[2]
    o = (a.double().reshape(-1, n) @ b.double().reshape(-1, n).T).reshape(r, 32, rows, 32).permute(0, 2, 1, 3).reshape(r * rows, 1024)
    return ((o @ w.double().reshape(1024, 128) + w_b.double()) * scale.double().reshape(-1, 1)).reshape(r, rows, 128)


def error(got, want):
    got = got.double()
    return float((got - want).norm() / want.norm()), int((~torch.isfinite(got)).sum()), float((got - want).abs().max())


def new_forward(data, target, source, factors, tile):
    a, b, w, w_b, scale = data
    a, b = old.aligned(a), old.aligned(b)
    assert hop.fits(a, b, w)
    hop.forward(a, b, w, w_b, scale, placed(target, source, factors), tile)


def old_forward(data, target, source, factors, tile):
    with onto(target, source, factors):
        assert old.forward(*data) is target


def check(title, data, want, run, tile, target, source, factors, guard=None):
    try:
        run(data, target, source, factors, tile)
        torch.cuda.synchronize()
        off, bad, most = error(target, want)
        kept = "" if guard is None else f" outside {'kept' if bool(torch.isnan(guard()).all()) else 'WRITTEN'}"
        print(
            f"{'ok  ' if off < 1e-2 and not bad else 'FAIL'} {title}: error {off:.2e}, {bad} not finite, largest {most:.3f}{kept}",
            flush=True,
        )
    except Exception as e:
        print(f"FAIL {title}: {type(e).__name__} {str(e)[:400]}", flush=True)
        if not isinstance(e, torch.AcceleratorError if hasattr(torch, "AcceleratorError") else RuntimeError):
            traceback.print_exc(limit=3)


def poisoned(*shape):
    return torch.full(shape, float("nan"), device="cuda", dtype=BF)


def checks():
    some = {
        (128, 256, 256): ["plain", "seq 1x2", "half 1x2", "seq 1x2 no prefetch", "seq 2x1"],
        (37, 101, 101): ["plain", "seq 1x2", "half 1x2", "seq 2x1"],
        (512, 136, 101): ["plain", "seq 2x1"],
        (432, 45, 77): ["seq 2x1"],
        (200, 72, 90): ["seq 1x2"],
        (300, 72, 90): ["seq 2x1"],
    }
    for (n, r, rows), names in some.items():
        data = inputs(n, r, rows)
        update = reference(*data)
        source = torch.randn(r, rows, 128, device="cuda").to(BF)
        want = source.double() + update
        for name in names:
            run, tile = (old_forward, None) if name == "plain" else (new_forward, VARIANTS[name])
            check(f"{n} {r} {rows} {name}", data, want, run, tile, poisoned(r, rows, 128), source, None)
    # in place, rows as columns of a larger tensor, factors; no source
    n, r, rows = 128, 72, 101
    data = inputs(n, r, rows, 1)
    update = reference(*data)
    for name in ("seq 1x2", "half 1x2"):
        whole = poisoned(rows + 9, r + 5, 128)
        target = whole[4 : 4 + rows, 3 : 3 + r].transpose(0, 1)
        start = torch.randn(r, rows, 128, device="cuda").to(BF)
        target.copy_(start)
        factors = (torch.rand(1, rows, 128, device="cuda") + 0.5).to(BF)
        guard = lambda: torch.cat([whole[:4].flatten(), whole[4 + rows :].flatten(), whole[:, :3].flatten(), whole[:, 3 + r :].flatten()])
        check(
            f"in place, columns, factors, {name}",
            data,
            start.double() + update * factors.double(),
            new_forward,
            VARIANTS[name],
            target,
            target,
            factors,
            guard,
        )
    check("no source, seq 1x2", data, update, new_forward, VARIANTS["seq 1x2"], poisoned(r, rows, 128), None, None)
    # the same numbers from run to run
    data = inputs(128, 512, 512, 2)
    outs = []
    for _ in range(6):
        out = poisoned(512, 512, 128)
        new_forward(data, out, None, None, VARIANTS["seq 1x2"])
        outs.append(out)
    print("repeated:", "equal" if all(torch.equal(o, outs[0]) for o in outs) else "DIFFERENT", flush=True)


def times():
    sizes = {
        (128, 2048): ["plain", "seq 1x2", "half 1x2", "seq 1x2 no prefetch", "half 1x2 no prefetch", "seq 2x1"],
        (512, 384): ["plain", "seq 2x1", "seq 2x1 no prefetch"],
        (512, 256): ["plain", "seq 2x1", "seq 2x1 no prefetch"],
        (128, 384): ["plain", "seq 1x2", "half 1x2"],
        (128, 256): ["plain", "seq 1x2", "half 1x2"],
    }
    for (n, r), names in sizes.items():
        sets = [(inputs(n, r, r, s), torch.zeros(r, r, 128, device="cuda", dtype=BF)) for s in range(3)]
        flops = r * r * (2 * n * 1024 + 2 * 1024 * 128)
        for name in names:
            try:
                turn = itertools.cycle(sets)

                def run():
                    data, z = next(turn)
                    (old_forward if name == "plain" else new_forward)(data, z, z, None, VARIANTS.get(name))

                ms = do_bench(run, warmup=15, rep=80, return_mode="median")
                print(f"n_seq {n} n_res {r} {name}: {ms:.4f} ms, {flops / ms / 1e9:.0f} TFLOP/s", flush=True)
            except Exception as e:
                print(f"FAIL n_seq {n} n_res {r} {name}: {type(e).__name__} {str(e)[:300]}", flush=True)
        del sets
        torch.cuda.empty_cache()


if __name__ == "__main__":
    what = sys.argv[1:] or ["checks", "times"]
    print(torch.cuda.get_device_name(), torch.__version__, triton.__version__, flush=True)
    if "checks" in what:
        checks()
        print(f"{time.time() - START:.0f} s", flush=True)
    if "times" in what:
        times()
    print(f"{time.time() - START:.0f} s", flush=True)
