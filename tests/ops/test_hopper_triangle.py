"""What of the kernels for NVIDIA Hopper can be tested without one: that they compile, and for what they are. On one: their numbers."""

import pytest
import torch

pytest.importorskip("triton.experimental.gluon")

from foldfit.ops import hopper_triangle
from foldfit.ops import reference as ref
from foldfit.ops import triton_gated_linear as tg
from foldfit.ops import triton_triangle as tt
from foldfit.ops.onto import onto
from tests.ops.hopper import on_hopper, shared_bytes
from tests.ops.test_triton_triangle import agree, columns, gradients, inputs_of

PROCESSORS = 228 * 1024
"""Bytes of a multiprocessor's programs, a KiB of each the system's."""


def test_compiles():
    """As many programs fit as are asked for."""
    sizes, programs = shared_bytes("compile_hopper_triangle"), (2, 1, 1, 1)
    assert len(sizes) == len(programs)
    assert all(0 < count * (size + 1024) <= PROCESSORS for size, count in zip(sizes, programs, strict=True))


def test_fits_nothing_else():
    """What TMA cannot address, other widths and precisions, no tokens."""
    x, o = torch.zeros(2, 16, 128, dtype=torch.bfloat16), torch.zeros(128, 2, 16, dtype=torch.bfloat16)
    assert hopper_triangle.fits(x, o)
    assert hopper_triangle.fits(x, o.transpose(0, 1).contiguous().transpose(0, 1))
    assert hopper_triangle.fits(torch.zeros(16, 5, 128, dtype=torch.bfloat16)[:, 1:3].transpose(0, 1), o)
    assert not hopper_triangle.fits(torch.zeros(2, 16, 132, dtype=torch.bfloat16)[..., :128], o)
    assert not hopper_triangle.fits(x.float(), o.float())
    assert not hopper_triangle.fits(x[..., :64].contiguous(), o)
    assert not hopper_triangle.fits(x, o[:64])
    assert not hopper_triangle.fits(x[:, :12].contiguous(), torch.zeros(128, 2, 12, dtype=torch.bfloat16))
    assert not hopper_triangle.fits(x, o[..., ::2])
    assert not hopper_triangle.fits(x, o[:1].expand(128, 2, 16))
    assert not hopper_triangle.fits(x[:0], o[:, :0])


@on_hopper
@pytest.mark.parametrize("has_b", [True, False])
@pytest.mark.parametrize(("r", "n"), [(1, 8), (5, 200), (64, 384)])
def test_numbers(r, n, has_b):
    """Tiles beyond a row's end, more tiles than programs, masks."""
    given = inputs_of(r, n, 128, 128, has_b, torch.bfloat16)
    assert hopper_triangle.fits(given["x"], given["a"].transpose(0, 1))
    agree(tt.triangle_update, ref.triangle_update, given, "bf16", (r, n, 128))
    mask = (torch.arange(r * n, device="cuda").view(r, n) % 5 != 1).to(torch.bfloat16)
    gated = {"x": given["x"], "norm_scale": given["norm_scale"], "norm_offset": given["norm_offset"], "mask": mask, "w": given["w"],
             "gate_w": given["gate_w"], "b": given["w_b"], "gate_b": given["gate_b"]}  # fmt: skip
    agree(tg.gated_linear, ref.gated_linear, gated, "bf16", (r, 128, n))
    for function, x, shape in ((tt.triangle_update, given, (r, n, 128)), (tg.gated_linear, gated, (r, 128, n))):
        turned = x | {name: columns(x[name]) for name in ("x", "mask") if name in x}
        assert hopper_triangle.fits(turned["x"])
        cotangent = torch.randn(*shape, device="cuda")
        here, there = (gradients(function, each, torch.bfloat16, shape, cotangent) for each in (x, turned))
        assert all(torch.equal(value, there[name]) for name, value in here.items())


@on_hopper
@pytest.mark.parametrize("lie", ["rows", "columns"])
def test_the_update_is_added_in_place(lie):
    """To the very rows that are read, tiles beyond a row's end among them, as out of place."""
    given = inputs_of(64, 200, 128, 128, True, torch.bfloat16)
    if lie == "columns":
        given["x"] = columns(given["x"])
    source, target = given["x"].clone(), torch.full_like(given["x"], torch.nan)
    with torch.no_grad():
        expected = source.double() + tt.triangle_update(*given.values()).double()
        for before, after in ((source, target), (given["x"], given["x"])):
            with onto(after, before, None) as end:
                assert tt.triangle_update(*given.values()) is after and end.taken
            assert (after.double() - expected).norm() <= 5e-3 * expected.norm()
    assert torch.equal(target, given["x"])
