"""The Triton residual and the copy of rows against PyTorch: in place and not, over strides, with and without dropout's factors."""

import pytest
import torch

from foldfit.ops import reference as ref
from foldfit.ops import triton_residual as tr

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def same(target: torch.Tensor, update: torch.Tensor, factors: torch.Tensor | None) -> None:
    source, wide = target.clone(), None if factors is None else factors.double()
    expected = torch.empty_like(source, dtype=torch.float64)
    ref.add(expected, source.double(), update.double(), wide)
    whole = torch.full((*target.shape[:-1], 2 * target.shape[-1]), torch.nan, dtype=target.dtype, device=DEVICE)
    elsewhere = whole[..., : target.shape[-1]]
    tr.add(elsewhere, source, update, factors)
    tr.add(target, target, update, factors)
    for out in (elsewhere, target):
        assert torch.equal(out, expected.to(target.dtype))
    assert whole[..., target.shape[-1] :].isnan().all()
    copy = tr.packed(source, factors)
    assert copy.is_contiguous() and torch.equal(copy, ref.packed(source.double(), wide).to(target.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 8), (5, 17, 24), (3, 70, 128)], ids=str)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dropped", ["", "r", "n"])
def test_rows_and_columns(shape, axis, dropped, dtype):
    r, n, c = shape
    whole = torch.randint(-8, 9, (r + 2, n, c) if axis == 0 else (n, r + 2, c), device=DEVICE).to(dtype)
    before = whole.clone()
    target = whole.narrow(axis, 1, r)
    target = target if axis == 0 else target.transpose(0, 1)
    update = torch.randint(-8, 9, shape, device=DEVICE).to(dtype)
    sizes = {"": None, "r": (1, n, c), "n": (r, 1, c)}[dropped]
    same(target, update, None if sizes is None else torch.randint(0, 2, sizes, device=DEVICE).to(dtype) * 2)
    for end in (0, r + 1):
        assert torch.equal(whole.narrow(axis, end, 1), before.narrow(axis, end, 1))


def test_one_axis_and_an_update_with_strides():
    target = torch.randint(-8, 9, (7, 40), device=DEVICE).float()
    same(target, torch.randint(-8, 9, (40, 7), device=DEVICE).float().t(), None)


def test_rows_that_lie_together_are_not_copied():
    x = torch.randn(3, 4, 8, device=DEVICE)
    assert all(packed(x, None) is x for packed in (tr.packed, ref.packed))
