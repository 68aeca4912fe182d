"""What of the kernel for NVIDIA Hopper can be tested without one: that it compiles, and what surrounds it. On one: its numbers."""

import pytest
import torch

pytest.importorskip("triton.experimental.gluon")

from foldfit.ops import hopper_attention
from foldfit.ops import triton_attention as ta
from foldfit.stacks.kernels import LONG_ROWS
from tests.ops.hopper import SHARED, on_hopper, shared_bytes
from tests.ops.test_triton_attention import compare, make_inputs, reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_compiles():
    (size,) = shared_bytes("compile_hopper")
    assert 0 < size <= SHARED


def test_fits_nothing_else():
    """What TMA cannot address, other head dims and precisions, short rows."""
    q = torch.zeros(2, 1024, 2, 32, dtype=torch.bfloat16)
    odd = torch.zeros(2, 1024, 2, 36, dtype=torch.bfloat16)[..., :32]
    assert hopper_attention.fits(q, q, q)
    assert not hopper_attention.fits(q, odd, q)
    assert not hopper_attention.fits(q.float(), q.float(), q.float())
    assert not hopper_attention.fits(q[..., :16], q[..., :16], q[..., :16])
    assert not hopper_attention.fits(q[:, :1023], q[:, :1023], q[:, :1023])


def test_scaled_bias():
    bias = torch.randn(21, 2, 21, device=DEVICE).to(torch.bfloat16)
    bias[3, 1, 5], bias[4, 0, 20] = -1e9, 1e9
    scaled = hopper_attention.scaled_bias(bias)
    turned = hopper_attention.scaled_bias(bias.transpose(0, 1).contiguous().transpose(0, 1))
    assert torch.equal(scaled, turned)
    assert scaled.stride() == (64, 32, 1)
    expected = (bias.double() * 1.4426950408889634).clamp(-65504, 65504)
    torch.testing.assert_close(scaled.double(), expected, rtol=2**-11, atol=1e-7)


def test_the_check_of_kernels_knows_where_it_begins():
    assert dict(LONG_ROWS)["bf16"] == hopper_attention.LEAST_N


@on_hopper
@pytest.mark.parametrize("n", [1024, 1027, 2048])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("has_mask", [True, False])
def test_numbers(n, has_bias, has_mask):
    """Outputs and gradients, rows that no program's pair divides."""
    compare(3, n, 4, 32, "bf16", has_bias, has_mask)


@on_hopper
def test_logits_far_from_zero():
    """Weights that would overflow without their maximum."""
    projected, bias, mask = make_inputs(3, 1030, 4, 32, torch.bfloat16, True, True)
    o = ta.attention(*projected.unbind(2), 60 * bias, mask)
    expected = reference(*projected.double().unbind(2), (60 * bias).double(), mask)
    assert ((o.double() - expected).norm() / expected.norm()).item() <= ta.TOLERANCE["bf16"]
