"""The Triton kernels of the transitions against fp64: output and every gradient."""

import pytest
import torch

from foldfit.ops import KERNELS
from foldfit.ops import triton_narrow_transition as narrow
from foldfit.ops import triton_transition_backward as tb
from foldfit.ops.unread import unread
from foldfit.stacks.kernels import SWIGLU_TRANSITION

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-3}
"""||x - x64|| / ||x64||."""


def inputs_of(shape: tuple[int, ...], c: int, u: int, op: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(len(shape) * c + u)

    def rand(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (scale * torch.randn(*shape, generator=g)).to(DEVICE, dtype)

    given = {"x": rand(*shape, c), "scale": 1 + rand(c, scale=0.1), "offset": rand(c, scale=0.1)}
    if op == "swiglu":
        return given | {"gate_w": rand(c, u, scale=c**-0.5), "up_w": rand(c, u, scale=c**-0.5), "down_w": rand(u, c, scale=u**-0.5)}
    up_b = rand(u)
    return given | {"up_w": rand(c, u, scale=c**-0.5), "up_b": up_b, "down_w": rand(u, c, scale=u**-0.5), "down_b": rand(c)}


def gradients(function, given, dtype, cotangent):
    leaves = {k: v.detach().to(dtype).requires_grad_() for k, v in given.items()}
    out = function(*leaves.values())
    assert out.shape == cotangent.shape
    return {"out": out, **dict(zip(leaves, torch.autograd.grad(out, leaves.values(), cotangent.to(dtype)), strict=True))}


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("op", ["relu_mlp", "swiglu"])
@pytest.mark.parametrize(
    ("shape", "c", "u"), [((1,), 8, 16), ((3, 17), 24, 48), ((2, 70), 32, 60), ((5,), 100, 48), ((130,), 64, 96), ((3, 5), 132, 48)]
)
def test_transition(shape, c, u, op, precision):
    given = inputs_of(shape, c, u, op, DTYPES[precision])
    cotangent = torch.randn(*shape, c, device=DEVICE).to(DTYPES[precision])
    got = gradients(getattr(KERNELS["triton"], op), given, DTYPES[precision], cotangent)
    expected = gradients(getattr(KERNELS["reference"], op), given, torch.float64, cotangent)
    for name, x in expected.items():
        # Of a ReLU's inputs a part like the rounding error lands on the other side of zero: each a gradient all wrong.
        tolerance = TOLERANCE[precision] ** (0.5 if op == "relu_mlp" and name != "out" else 1)
        assert (got[name].double() - x).norm() <= tolerance * x.norm(), name
    with torch.no_grad():
        assert torch.equal(getattr(KERNELS["triton"], op)(*given.values()), got["out"])


def test_pieces_change_nothing_but_the_order_of_sums(monkeypatch):
    given = inputs_of((3, 30), 16, 24, "swiglu", torch.float32)
    cotangent = torch.randn(3, 30, 16, device=DEVICE)
    whole = gradients(KERNELS["triton"].swiglu, given, torch.float32, cotangent)
    monkeypatch.setattr(tb, "PIECE", 32)
    for name, x in gradients(KERNELS["triton"].swiglu, given, torch.float32, cotangent).items():
        assert torch.allclose(x, whole[name], rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_shares_of_the_rows_change_nothing_but_the_order_of_sums(precision, monkeypatch):
    """Neither tiles nor shares divide the rows; the hidden layer takes two programs, the second in part."""
    given = inputs_of((7, 23), 40, 208, "relu_mlp", DTYPES[precision])
    cotangent = torch.randn(7, 23, 40, device=DEVICE).to(DTYPES[precision])
    whole = gradients(KERNELS["triton"].relu_mlp, given, DTYPES[precision], cotangent)
    monkeypatch.setattr(narrow, "ROWS_EACH", 50)
    assert narrow.shares_of(161, 200) == 3
    for name, x in gradients(KERNELS["triton"].relu_mlp, given, DTYPES[precision], cotangent).items():
        assert (x - whole[name]).norm() <= {"fp32": 1e-6, "bf16": 4e-3}[precision] * x.norm(), name


@pytest.mark.parametrize("op", ["relu_mlp", "swiglu"])
@pytest.mark.parametrize("c", [16, 144])
def test_the_gradients_do_not_need_the_update(op, c, monkeypatch):
    given = inputs_of((2, 9), c, 24, op, torch.float32)
    cotangent = torch.randn(2, 9, c, device=DEVICE)
    expected = gradients(getattr(KERNELS["triton"], op), given, torch.float32, cotangent)
    monkeypatch.setattr(tb, "forward", None)  # it is not called
    with unread():
        got = gradients(getattr(KERNELS["triton"], op), given, torch.float32, cotangent)
    assert all(torch.equal(got[name], x) for name, x in expected.items() if name != "out")


@pytest.mark.parametrize(("c", "u", "said"), [(260, 16, "at most 256"), (24, 40, "multiple of 16")])
def test_widths_that_it_has_no_kernel_for_are_refused(c, u, said):
    with pytest.raises(NotImplementedError, match=said), torch.no_grad():
        KERNELS["triton"].swiglu(*inputs_of((4,), c, u, "swiglu", torch.float32).values())
    assert not SWIGLU_TRANSITION["triton"]["cuda"].made_for({"c": c, "u": u})
