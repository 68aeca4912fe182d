"""The Triton kernels of the outer product mean against fp64: outputs and every gradient."""

import pytest
import torch

from foldfit.ops import reference as ref
from foldfit.ops import triton_masked_linear as tm
from foldfit.ops import triton_outer_product as to
from foldfit.ops.unread import unread

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 2e-3}


def results(function, given, dtype, d_out):
    """The output and the gradient of every input but the last, by name."""
    leaves = {k: x.to(dtype).requires_grad_(k not in ("mask", "factor")) for k, x in given.items()}
    out = function(*leaves.values())
    names = [k for k, x in leaves.items() if x.requires_grad]
    return {"out": out, **dict(zip(names, torch.autograd.grad(out, [leaves[k] for k in names], d_out.to(dtype)), strict=True))}


def agree(ours, theirs, given, precision):
    given = {k: x.to(DEVICE, DTYPES[precision]) for k, x in given.items()}
    with torch.no_grad():
        alone = ours(*given.values())
    d_out = torch.randn_like(alone)
    got, expected = results(ours, given, DTYPES[precision], d_out), results(theirs, given, torch.float64, d_out)
    for name, x in expected.items():
        assert (got[name].double() - x).norm() <= TOLERANCE[precision] * x.norm(), name
    assert torch.equal(alone, got["out"])


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize(
    ("r", "rows", "n", "o", "p", "z"), [(1, 1, 1, 8, 8, 16), (3, 37, 19, 8, 8, 24), (9, 17, 70, 19, 12, 29), (5, 18, 20, 32, 32, 128)]
)
def test_outer_product(r, rows, n, o, p, z, precision):
    torch.manual_seed(r + n)
    given = {
        "a": torch.randn(r, o, n), "b": torch.randn(rows, p, n), "w": torch.randn(o, p, z) / o, "w_b": torch.randn(z),
        "factor": torch.rand(r, rows),
    }  # fmt: skip
    agree(to.outer_product, ref.outer_product, given, precision)


def test_the_gradients_do_not_need_the_update(monkeypatch):
    torch.manual_seed(0)
    given = {k: torch.randn(*shape, device=DEVICE) for k, shape in {"a": (3, 8, 5), "b": (4, 8, 5), "w": (8, 8, 16), "w_b": (16,)}.items()}
    given, d_out = given | {"factor": torch.rand(3, 4, device=DEVICE)}, torch.randn(3, 4, 16, device=DEVICE)
    expected = results(to.outer_product, given, torch.float32, d_out)
    monkeypatch.setattr(to, "forward", None)  # it is not called
    with unread():
        got = results(to.outer_product, given, torch.float32, d_out)
    assert all(torch.equal(got[name], x) for name, x in expected.items() if name != "out")


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize(("r", "n", "c", "p"), [(1, 3, 8, 8), (3, 19, 24, 8), (2, 70, 64, 32), (2, 33, 256, 23)])
def test_masked_linear(r, n, c, p, precision):
    torch.manual_seed(n + c)
    given = {
        "x": torch.randn(r, n, c), "scale": 1 + 0.1 * torch.randn(c), "offset": 0.1 * torch.randn(c),
        "mask": (torch.arange(r * n).view(r, n) % 5 != 1) / 4, "w": torch.randn(c, p) / c**0.5, "b": torch.randn(p),
    }  # fmt: skip
    agree(tm.masked_linear, ref.masked_linear, given, precision)


def test_rows_and_their_gradient_may_be_strided():
    """Columns of an MSA, and a gradient as a matrix product hands it over."""
    torch.manual_seed(0)
    x, d = torch.randn(20, 3, 16, device=DEVICE), torch.randn(8, 3, 20, device=DEVICE)
    given = [torch.randn(*shape, device=DEVICE) for shape in ((16,), (16,), (3, 20), (16, 8), (8,))]

    def gradient(x, d):
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(tm.masked_linear(leaf, *given), leaf, d)[0]

    assert torch.equal(
        gradient(x.transpose(0, 1), d.transpose(0, 1)), gradient(x.transpose(0, 1).contiguous(), d.transpose(0, 1).contiguous())
    )


def test_too_wide_is_refused():
    with pytest.raises(NotImplementedError, match="at most 256"):
        tm.masked_linear(torch.randn(1, 4, 300), torch.randn(300), torch.randn(300), torch.ones(1, 4), torch.randn(300, 8), torch.randn(8))
    with pytest.raises(NotImplementedError, match="at most 128"):
        to.outer_product(torch.randn(1, 8, 4), torch.randn(1, 8, 4), torch.randn(8, 8, 200), torch.randn(200), torch.ones(1, 1))
