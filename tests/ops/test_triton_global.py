"""The Triton kernels of global column attention against fp64: output and every gradient."""

import pytest
import torch

from foldfit.ops import reference as ref
from foldfit.ops import triton_global_backward as tg

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCE = {"fp32": 1e-5, "bf16": 3e-2, "fp16": 4e-3}
"""||x - x64|| / ||x64||."""


def inputs_of(r: int, n: int, c: int, h: int, d: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(r * n + c)

    def rand(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (scale * torch.randn(*shape, generator=g)).to(DEVICE, dtype)

    given = {"x": rand(r, n, c), "scale": 1 + rand(c, scale=0.1), "offset": rand(c, scale=0.5)}
    given |= {"query_w": rand(c, h, d, scale=2 * c**-0.5), "key_w": rand(c, d, scale=2 * c**-0.5), "value_w": rand(c, d, scale=c**-0.5)}
    given |= {"gating_w": rand(c, h, d, scale=c**-0.5), "gating_b": rand(h, d)}
    return given | {"output_w": rand(h, d, c, scale=(h * d) ** -0.5), "output_b": rand(c)}


def gradients(function, given, mask, dtype, cotangent):
    leaves = {k: v.detach().to(dtype).requires_grad_() for k, v in given.items()}
    out = function(*leaves.values(), mask.to(dtype))
    return {"out": out, **dict(zip(leaves, torch.autograd.grad(out, leaves.values(), cotangent.to(dtype)), strict=True))}


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize(("r", "n", "c", "h", "d"), [(1, 9, 8, 2, 8), (3, 17, 24, 4, 6), (2, 70, 32, 8, 8), (3, 150, 64, 8, 8)])
def test_global_attention(r, n, c, h, d, precision):
    given = inputs_of(r, n, c, h, d, DTYPES[precision])
    mask = (torch.arange(r * n, device=DEVICE).view(r, n) % 5 != 1).to(DTYPES[precision])
    if r > 1:
        mask[-1, n // 2 :] = 0
        mask[0] = 0  # a row without real elements attends to all of them
    cotangent = torch.randn(r, n, c, device=DEVICE)
    got = gradients(tg.global_attention, given, mask, DTYPES[precision], cotangent)
    expected = gradients(ref.global_attention, given, mask, torch.float64, cotangent)
    for name, x in expected.items():
        assert (got[name].double() - x).norm() <= TOLERANCE[precision] * x.norm(), name
    with torch.no_grad():
        assert torch.equal(tg.global_attention(*given.values(), mask), got["out"])


def test_too_wide_is_refused():
    given = inputs_of(1, 3, 140, 2, 8, torch.float32)
    with pytest.raises(NotImplementedError, match="at most 128 channels"), torch.no_grad():
        tg.global_attention(*given.values(), torch.ones(1, 3, device=DEVICE))
