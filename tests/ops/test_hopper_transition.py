"""What of the transitions' kernels for NVIDIA Hopper can be tested without one: that they compile, and for what. On one: their numbers."""

import pytest
import torch

pytest.importorskip("triton.experimental.gluon")

from foldfit.ops import KERNELS, hopper_transition, hopper_transition_backward
from foldfit.ops.onto import onto
from tests.ops.hopper import SHARED, on_hopper, shared_bytes
from tests.ops.test_triton_transition import TOLERANCE, gradients, inputs_of


def test_compiles():
    sizes = shared_bytes("compile_hopper_transition")
    assert len(sizes) == len(hopper_transition.BLOCKS) + 1
    assert all(0 < size <= SHARED for size in sizes)


def test_fits_nothing_else():
    """What TMA cannot address, other widths and precisions, part of a block, no rows."""
    x, up_w, down_w = (torch.zeros(shape, dtype=torch.bfloat16) for shape in ((3, 128), (128, 512), (512, 128)))
    assert hopper_transition.fits(x, up_w, down_w)
    assert hopper_transition.fits(x, up_w, down_w, up_w)
    assert not hopper_transition.fits(x.float(), up_w.float(), down_w.float())
    assert not hopper_transition.fits(x[:, :64].contiguous(), up_w[:64], down_w[:, :64].contiguous())
    assert not hopper_transition.fits(x, up_w[:, :192].contiguous(), down_w[:192])
    assert not hopper_transition.fits(x, down_w.t(), down_w)
    assert not hopper_transition.fits(torch.zeros(385, dtype=torch.bfloat16)[1:].view(3, 128), up_w, down_w)
    assert not hopper_transition.fits(x[:0], up_w, down_w)


def test_hidden_gradient_fits_nothing_else():
    d_out, hidden, down_w = (torch.zeros(shape, dtype=torch.bfloat16) for shape in ((3, 256), (3, 1024), (1024, 256)))
    assert hopper_transition_backward.fits(d_out, hidden, down_w)
    assert not hopper_transition_backward.fits(d_out.float(), hidden.float(), down_w.float())
    assert not hopper_transition_backward.fits(d_out[:, :128].contiguous(), hidden, down_w[:, :128].contiguous())
    assert not hopper_transition_backward.fits(d_out, hidden[:, :192].contiguous(), down_w[:192])
    assert not hopper_transition_backward.fits(d_out[:0], hidden[:0], down_w)


@pytest.mark.parametrize("processors", [78, 132])
@pytest.mark.parametrize("u", [128, 1024, 32768])
@pytest.mark.parametrize("rows", [1, 127, 128, 2047, 40000])
def test_sums_within_the_promise(rows, u, processors):
    """A program at least, no more of them than run at once, and no more sums than are promised: 4 bytes per 128 of the hidden layer."""
    shares = hopper_transition_backward.shares_of(rows, u, processors)
    assert shares >= 1
    assert shares == 1 or shares * u // 128 <= processors
    assert shares == 1 or shares * u * 4 <= rows * u * 4 / 128


@on_hopper
@pytest.mark.parametrize("op", ["relu_mlp", "swiglu"])
@pytest.mark.parametrize("c", [128, 256])
@pytest.mark.parametrize("rows", [1, 77, 643, 40000])
def test_numbers(rows, c, op):
    """Outputs and gradients: rows that no group divides, more tiles than programs."""
    given = inputs_of((rows,), c, 4 * c, op, torch.bfloat16)
    cotangent = torch.randn(rows, c, device="cuda").to(torch.bfloat16)
    got = gradients(getattr(KERNELS["triton"], op), given, torch.bfloat16, cotangent)
    expected = gradients(getattr(KERNELS["reference"], op), given, torch.float64, cotangent)
    for name, x in expected.items():
        # As in test_triton_transition.py.
        tolerance = TOLERANCE["bf16"] ** (0.5 if op == "relu_mlp" and name != "out" else 1)
        assert (got[name].double() - x).norm() <= tolerance * x.norm(), name


@on_hopper
@pytest.mark.parametrize("op", ["relu_mlp", "swiglu"])
@pytest.mark.parametrize("c", [128, 256])
@torch.no_grad()
def test_an_update_is_added_where_it_was_read(c, op):
    x, *weights = (w.to("cuda", torch.bfloat16) for w in inputs_of((300, 131), c, 4 * c, op, torch.bfloat16).values())
    update = getattr(KERNELS["reference"], op)(*(w.double() for w in (x, *weights)))
    expected = x.double() + update
    with onto(x, x, None) as residual:
        out = getattr(KERNELS["triton"], op)(x, *weights)
    assert residual.taken and out is x
    assert (x.double() - expected).norm() <= TOLERANCE["bf16"] * expected.norm()
