"""Gradients add up in one tensor, whatever lies how."""

import pytest
import torch
from torch import nn

from foldfit.model import SUB_MODULES
from foldfit.runtime.parameters import SMALL, Gradients, leaves_of
from foldfit.runtime.rows import stacked
from foldfit.stacks import stack_spec

ATTENTION = next(s for s in stack_spec("evoformer").sub_modules if s.kind == "row_attention")


def given(dtype: torch.dtype, lying: str) -> list[torch.Tensor]:
    """One a parameter; `lying`: those of four projections as columns of one product, or each by itself, or transposed."""
    shapes = [p.shape for p in SUB_MODULES[ATTENTION.kind](ATTENTION).parameters()]
    found = [torch.randn(s).to(dtype) for s in shapes]
    if lying == "columns":
        first = next(i for i, s in enumerate(shapes) if shapes[i : i + 4] == [s] * 4)
        c, h, d = shapes[first]
        found[first : first + 4] = torch.randn(c, 4, h, d).to(dtype).unbind(1)
    if lying == "transposed":
        found = [g.t().contiguous().t() if g.dim() == 2 else g for g in found]
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lying", ["columns", "alone", "transposed"])
def test_gradients_add_up(dtype, lying):
    module = SUB_MODULES[ATTENTION.kind](ATTENTION)
    gradients = Gradients(list(module.parameters()))
    sizes = [p.numel() for p in leaves_of(module)]
    assert min(sizes) <= SMALL < max(sizes)
    expected = [torch.zeros(p.shape) for p in leaves_of(module)]
    for leave_out in (0, 3):
        grads = [None if i == leave_out else g for i, g in enumerate(given(dtype, lying))]
        gradients.add(module, grads)
        expected = [e if g is None else e + g for e, g in zip(expected, grads, strict=True)]
    for p, e in zip(leaves_of(module), expected, strict=True):
        assert torch.equal(gradients.buffers[id(p)], e)


def test_the_projections_of_an_attention_are_one_sum(monkeypatch):
    module = SUB_MODULES[ATTENTION.kind](ATTENTION)
    gradients, added = Gradients(list(module.parameters())), []
    plain = torch.Tensor.add_
    monkeypatch.setattr(torch.Tensor, "add_", lambda self, other: (added.append(self.shape), plain(self, other))[1])
    gradients.add(module, given(torch.float32, "columns"))
    shape = next(p.shape for name, p in module.named_parameters() if name == "query_w")
    assert (4, *shape) in added and shape not in added


def test_a_frozen_parameter_gets_none():
    module = SUB_MODULES[ATTENTION.kind](ATTENTION)
    module.get_parameter("key_w").requires_grad_(False)
    gradients = Gradients(list(module.parameters()))
    grads = given(torch.float32, "columns")
    gradients.add(module, grads)
    for p, g in zip(leaves_of(module), grads, strict=True):
        assert not p.requires_grad or torch.equal(gradients.buffers[id(p)], g)


def test_what_is_stacked_lies_alike():
    x, y = torch.arange(24.0).view(2, 3, 4), nn.Parameter(torch.zeros(3, 4))
    assert torch.equal(stacked(x.unbind(1)), x.transpose(0, 1))  # type: ignore[arg-type]
    apart = [
        x[:1], [x[0], x[1].t()], [x[1], x[0]], [x[0], y], [x[0, 0], x[0, 1], x[1, 0]], [x[:, :0], x[:, :0]],
    ]  # fmt: skip
    assert all(stacked(list(parts)) is None for parts in apart)
