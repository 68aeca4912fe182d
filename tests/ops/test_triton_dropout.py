"""Dropout factors from a seed on the device."""

import torch

from foldfit.ops.triton_dropout import factors

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_factors_are_a_function_of_seed_and_position():
    like = torch.empty(0, dtype=torch.float16, device=DEVICE)
    seed = torch.tensor(5, device=DEVICE)
    a = factors((1, 200, 64), 0.25, seed, 7, like)
    assert a.dtype == like.dtype and torch.allclose(a.unique(), torch.tensor([0, 4 / 3], dtype=like.dtype, device=DEVICE))
    assert abs((a == 0).float().mean() - 0.25) < 0.02
    assert torch.equal(a, factors((1, 200, 64), 0.25, seed, 7, like))
    assert not torch.equal(a, factors((1, 200, 64), 0.25, seed, 8, like))
    assert not torch.equal(a, factors((1, 200, 64), 0.25, seed + 1, 7, like))
