"""The Triton residual against PyTorch: in place, over strides, with and without dropout's factors."""

import pytest
import torch

from foldfit.ops import reference as ref
from foldfit.ops import triton_residual as tr

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def same(target: torch.Tensor, update: torch.Tensor, factors: torch.Tensor | None) -> None:
    expected = target.clone(memory_format=torch.preserve_format).double()
    ref.add(expected, update.double(), None if factors is None else factors.double())
    tr.add(target, update, factors)
    assert torch.equal(target, expected.to(target.dtype))


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
