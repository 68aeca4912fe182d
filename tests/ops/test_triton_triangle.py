"""The Triton kernels of triangle multiplication against fp64: outputs and every gradient."""

import pytest
import torch

from foldfit.ops import reference as ref
from foldfit.ops import triton_folded_norm as folded
from foldfit.ops import triton_gated_linear as tg
from foldfit.ops import triton_triangle as tt
from foldfit.ops.unread import unread

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 2e-3}


def inputs_of(r: int, n: int, c: int, u: int, has_b: bool, dtype: torch.dtype) -> dict[str, torch.Tensor | None]:
    g = torch.Generator().manual_seed(r * n + c)

    def rand(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (scale * torch.randn(*shape, generator=g)).to(DEVICE, dtype)

    return {
        "a": rand(r, u, n), "b": rand(n, u, n), "x": 0.5 + 2 * rand(r, n, c),
        "norm_scale": 1 + rand(c, scale=0.1), "norm_offset": rand(c, scale=0.1),
        "scale": 1 + rand(u, scale=0.1), "offset": rand(u, scale=0.1),
        "w": rand(u, c, scale=u**-0.5), "w_b": rand(c) if has_b else None, "gate_w": rand(c, c, scale=c**-0.5),
        "gate_b": rand(c) if has_b else None,
    }  # fmt: skip


def gradients(function, given, dtype, shape, cotangent):
    leaves = {k: None if v is None else v.detach().to(dtype).requires_grad_(k != "mask") for k, v in given.items()}
    out = function(*leaves.values())
    assert out.shape == shape
    names = [k for k, v in leaves.items() if v is not None and v.requires_grad]
    return {"out": out, **dict(zip(names, torch.autograd.grad(out, [leaves[k] for k in names], cotangent.to(dtype)), strict=True))}


def gated_inputs_of(r: int, n: int, c: int, u: int, has_b: bool, dtype: torch.dtype) -> dict[str, torch.Tensor | None]:
    x = inputs_of(r, n, c, u, has_b, dtype)
    w = x["w"].t().contiguous()
    return {
        "x": x["x"], "norm_scale": x["norm_scale"], "norm_offset": x["norm_offset"],
        "mask": (torch.arange(r * n, device=DEVICE).view(r, n) % 5 != 1).to(dtype), "w": w, "gate_w": 0.5 * w,
        "b": x["offset"] if has_b else None, "gate_b": x["scale"] if has_b else None,
    }  # fmt: skip


def agree(ours, theirs, given, precision, shape):
    cotangent = torch.randn(*shape, device=DEVICE).to(DTYPES[precision])
    got = gradients(ours, given, DTYPES[precision], shape, cotangent)
    expected = gradients(theirs, given, torch.float64, shape, cotangent)
    for name, x in expected.items():
        assert (got[name].double() - x).norm() <= 2 * TOLERANCE[precision] * x.norm(), name
    with torch.no_grad():
        assert torch.equal(ours(*given.values()), got["out"])


@pytest.fixture(autouse=True)
def several_parts(monkeypatch):
    """Backward kernels of several programs, also over few tokens."""
    monkeypatch.setattr(folded, "TOKENS_EACH", 40)


SIZES = [(1, 1, 8, 8), (3, 17, 24, 20), (2, 33, 16, 40)]


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("has_b", [True, False])
@pytest.mark.parametrize(("r", "n", "c", "u"), SIZES)
def test_triangle_update(r, n, c, u, has_b, precision):
    given = inputs_of(r, n, c, u, has_b, DTYPES[precision])
    if n == 1:
        given["b"] = given["b"] + 2  # a norm over channels that are all alike has no digits left
    agree(tt.triangle_update, ref.triangle_update, given, precision, (r, n, c))


def test_what_nobody_reads_is_not_computed(monkeypatch):
    given, cotangent = inputs_of(3, 17, 24, 20, True, torch.float32), torch.randn(3, 17, 24, device=DEVICE)
    expected = gradients(tt.triangle_update, given, torch.float32, (3, 17, 24), cotangent)
    monkeypatch.setattr(tt, "epilogue", None)  # it is not called
    with unread():
        got = gradients(tt.triangle_update, given, torch.float32, (3, 17, 24), cotangent)
    assert all(torch.equal(got[name], x) for name, x in expected.items() if name != "out")


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("has_b", [True, False])
@pytest.mark.parametrize(("r", "n", "c", "u"), SIZES)
def test_gated_linear(r, n, c, u, has_b, precision):
    agree(tg.gated_linear, ref.gated_linear, gated_inputs_of(r, n, c, u, has_b, DTYPES[precision]), precision, (r, u, n))


def columns(x: torch.Tensor) -> torch.Tensor:
    """The same as columns of a larger tensor, between others."""
    r, n, *c = x.shape
    larger = torch.full((n, r + 3, *c), torch.nan, device=x.device, dtype=x.dtype)
    larger[:, 2 : 2 + r] = x.transpose(0, 1)
    return larger[:, 2 : 2 + r].transpose(0, 1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("function", [tg.gated_linear, tt.triangle_update])
def test_rows_may_be_columns(function, precision):
    """Rows, and their mask, are read where they lie, and give the same to the bit; all that is made is contiguous."""
    (r, n, c, u), dtype = (3, 17, 24, 40), DTYPES[precision]
    made, shape = (gated_inputs_of, (r, u, n)) if function is tg.gated_linear else (inputs_of, (r, n, c))
    given, cotangent = made(r, n, c, u, True, dtype), torch.randn(*shape, device=DEVICE)
    turned = given | {name: columns(given[name]) for name in ("x", "mask") if name in given}
    assert not any(turned[name].is_contiguous() for name in ("x", "mask") if name in given)
    here, there = (gradients(function, x, dtype, shape, cotangent) for x in (given, turned))
    assert all(torch.equal(x, there[name]) for name, x in here.items())
    assert there["x"].is_contiguous()
    with torch.no_grad():
        assert torch.equal(function(*turned.values()), here["out"])


def test_the_gradient_may_be_a_view():
    """As the batched product hands it over: token stride 1, channels and rows in any order."""
    x = inputs_of(3, 20, 16, 24, True, torch.float32)
    leaf = x["x"].clone().requires_grad_()
    w = x["w"].t().contiguous()
    call = lambda: tg.gated_linear(leaf, x["norm_scale"], x["norm_offset"], torch.ones(3, 20, device=DEVICE), w, w, None, None)  # noqa: E731
    d = torch.randn(24, 3, 20, device=DEVICE)
    (plain,) = torch.autograd.grad(call(), leaf, d.transpose(0, 1).contiguous())
    (strided,) = torch.autograd.grad(call(), leaf, d.transpose(0, 1))
    assert torch.equal(plain, strided)


def test_what_kernels_cannot_do_is_refused():
    with pytest.raises(NotImplementedError, match="side by side"):
        tg.gated_linear(torch.randn(1, 8, 4).mT, torch.ones(8), torch.zeros(8), torch.ones(1, 4), *torch.randn(2, 8, 8), None, None)
    with pytest.raises(NotImplementedError, match="at most 256"):
        tg.gated_linear(torch.randn(1, 4, 300), torch.ones(300), torch.zeros(300), torch.ones(1, 4), *torch.randn(2, 300, 8), None, None)
