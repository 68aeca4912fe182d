"""What DeepMind's own code computes, under many plans: outputs and all gradients."""

from pathlib import Path

import numpy as np
import pytest
import torch

from foldfit.model.weights import expected_keys
from foldfit.plans import Choice
from foldfit.runtime.trunk import Evoformer, ExtraMSAStack
from tests import small

DATA = Path(__file__).parents[1] / "data"


def choices(model, rows: int, recompute: bool, kernel: str = "reference") -> tuple[Choice, ...]:
    return tuple(Choice(kernel if kernel in sub.kernels else "reference", rows, rows, recompute) for sub in model.specs[0].sub_modules)


def mixed(model) -> tuple[Choice, ...]:
    """Another slice for every sub-module, every other one recomputed."""
    return tuple(Choice("reference", i + 1, 2 * i + 1, i % 2 == 0) for i, _ in enumerate(model.specs[0].sub_modules))


PLANS = {
    "whole, kept": lambda m: (small.keep(2), {"b": choices(m, 1000, False)}),
    "whole, recomputed": lambda m: (small.keep(2), {"b": choices(m, 1000, True)}),
    "slices that divide": lambda m: (small.keep(2), {"b": choices(m, 3, False)}),
    "slices that do not": lambda m: (small.keep(2), {"b": choices(m, 5, True)}),
    "one row at a time": lambda m: (small.keep(2), {"b": choices(m, 1, True)}),
    "one row, kept": lambda m: (small.keep(2), {"b": choices(m, 1, False)}),
    "mixed": lambda m: (small.keep(2), {"b": mixed(m)}),
    "blocks recomputed": lambda m: (small.large(2), {"b": choices(m, 1000, False), "r": choices(m, 4, False)}),
    "nested": lambda m: (small.nested(2), {"b": mixed(m), "r": choices(m, 7, False)}),
}


@pytest.mark.parametrize("plan_name", PLANS)
@pytest.mark.parametrize(("cls", "stack"), [(Evoformer, "evoformer"), (ExtraMSAStack, "extra_msa")])
def test_outputs_and_gradients_are_deepminds(cls, stack, plan_name):
    data = np.load(DATA / f"{stack}_2blocks.npz")
    model = cls.from_alphafold({key[6:]: data[key] for key in data.files if key.startswith("param:")}).eval()
    t = {key: torch.from_numpy(data[key]) for key in data.files if ":" not in key}
    m, z = t["msa"].requires_grad_(), t["pair"].requires_grad_()
    schedule, named = PLANS[plan_name](model)
    plan = small.unlimited(schedule, named, stacks=model.stacks(len(m)), n_res=len(z), mode="train")
    m_out, z_out = model(m, z, t["msa_mask"], t["pair_mask"], plan=plan)
    torch.testing.assert_close(m_out, t["msa_out"], rtol=0, atol=1e-5 * float(t["msa_out"].abs().max()))
    torch.testing.assert_close(z_out, t["pair_out"], rtol=0, atol=1e-5 * float(t["pair_out"].abs().max()))
    ((m_out * t["msa_weight"]).mean() + (z_out * t["pair_weight"]).mean()).backward()
    grads = {"msa_grad": m.grad, "pair_grad": z.grad}
    for name, grad in grads.items():
        assert relative(grad, t[name]) < 1e-4, name
    largest = max(float(torch.from_numpy(data[key]).max()) for key in data.files if key.startswith("grad_norm:"))
    for key, (i, name) in expected_keys(model.specs[0]).items():
        grad = torch.stack([getattr(block[i], name).grad for block in model.sub_modules()])
        # A constant added to all keys' bias leaves the soft-max alone: that gradient is zero but for rounding.
        noise = 1e-4 * largest if key.endswith("feat_2d_norm//offset") else 0.0
        norms = torch.from_numpy(data[f"grad_norm:{key}"])
        assert ((grad.flatten(1).norm(dim=1) - norms).abs() <= 1e-4 * norms + noise).all(), key
        if f"grad:{key}" in data.files:
            expected = torch.from_numpy(data[f"grad:{key}"])
            assert float((grad - expected).norm()) <= 1e-4 * float(expected.norm()) + noise, key


def relative(x: torch.Tensor, expected: torch.Tensor) -> float:
    return float((x - expected).norm() / expected.norm())
