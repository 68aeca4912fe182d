"""The Triton layer norm against fp64: output and every gradient."""

import pytest
import torch

from foldfit.ops import reference as ref
from foldfit.ops import triton_layer_norm as tn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 6e-3, torch.float16: 1e-3}


def results(function, dtype, x, scale, offset, cotangent):
    leaves = [t.to(dtype).requires_grad_() for t in (x, scale, offset)]
    out = function(*leaves)
    return out, *torch.autograd.grad(out, leaves, cotangent.to(dtype))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(1, 8), (3, 64), (7, 5, 24), (2, 300, 128), (257, 256), (5, 384)], ids=str)
def test_against_fp64(shape, dtype):
    torch.manual_seed(len(shape))
    x = (3 * torch.randn(*shape, device=DEVICE) + 2).to(dtype)
    scale, offset = ((torch.randn(shape[-1], device=DEVICE) + k).to(dtype) for k in (1, 0))
    cotangent = torch.randn(*shape, device=DEVICE).to(dtype)
    got = results(tn.layer_norm, dtype, x, scale, offset, cotangent)
    expected = results(ref.layer_norm, torch.float64, x, scale, offset, cotangent)
    for name, ours, theirs in zip(("y", "d_x", "d_scale", "d_offset"), got, expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours.double() - theirs).norm() <= TOLERANCE[dtype] * theirs.norm(), name
    with torch.no_grad():
        assert torch.equal(tn.layer_norm(x, scale, offset), got[0])


def test_what_is_far_from_zero_keeps_its_digits():
    x = torch.randn(40, 64, device=DEVICE) + 1000
    one, zero = torch.ones(64, device=DEVICE), torch.zeros(64, device=DEVICE)
    expected = ref.layer_norm(x.double(), one.double(), zero.double())
    assert (tn.layer_norm(x, one, zero).double() - expected).norm() <= 1e-4 * expected.norm()


def test_only_its_input_is_kept():
    kept = []
    x, one = torch.randn(6, 32, device=DEVICE, requires_grad=True), torch.ones(32, device=DEVICE, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        tn.layer_norm(x, one, one)
    assert [t.data_ptr() for t in kept] == [x.data_ptr(), one.data_ptr()]
