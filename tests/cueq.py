"""What stands in for cuEquivariance where it is not installed: its `triangle_attention` with the same tensors alive at every
moment, as its 0.13 has them on Hopper (docs/costs.md); the arithmetic is plain PyTorch, hidden from meters."""

import sys
import types
from importlib.machinery import ModuleSpec
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

NAME = "cuequivariance_torch"


class TriangleAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v [1, r, h, n, d], bias [1, 1, h, n, k] in fp32, mask [1, r, 1, 1, k] -> o, log-sum-exp, maximum."""
        o, lse, most = torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=torch.float32), q.new_empty(q.shape[:-1], dtype=torch.float32)
        with _disable_current_modes():
            logits = q.float() @ k.float().mT * q.shape[-1] ** -0.5 + bias - 1e9 * ~mask
            o.copy_(logits.softmax(-1) @ v.float())
            lse.copy_(logits.logsumexp(-1))
            del logits
        if keep:
            ctx.save_for_backward(q, k, v, bias, o, lse)
            ctx.mask = mask.clone()
        return o, lse, most

    @staticmethod
    def backward(ctx: Any, d_o: Tensor, d_lse: Tensor, d_most: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, o, lse = ctx.saved_tensors
        d_o = d_o.contiguous()
        d_q, d_k, d_v, d_bias = torch.zeros_like(q), torch.empty_like(k), torch.empty_like(v), torch.zeros_like(bias)
        d_o_dot = q.new_empty(q.shape[:-1], dtype=torch.float32)
        d_q32 = d_q if q.dtype == torch.float32 else q.new_zeros(q.shape, dtype=torch.float32)
        with _disable_current_modes():
            scale = q.shape[-1] ** -0.5
            weights = (q.float() @ k.float().mT * scale + bias - 1e9 * ~ctx.mask - lse[..., None]).exp()
            d_logits = weights * (d_o.float() @ v.float().mT - (d_o.float() * o.float()).sum(-1, keepdim=True))
            d_q.copy_(d_logits @ k.float() * scale)
            d_k.copy_(d_logits.mT @ q.float() * scale)
            d_v.copy_(weights.mT @ d_o.float())
            d_bias.copy_(d_logits.sum(1, keepdim=True))
            del weights, d_logits
        del d_o_dot, d_q32
        return d_q, d_k, d_v, d_bias, None, None


def triangle_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        return TriangleAttention.apply(q, k, v, bias, mask, True)[0]
    return TriangleAttention.forward(None, q, k, v, bias, mask, False)[0]


def install() -> None:
    """In the package's place, on any machine: the tests run on the CPU, where it cannot."""
    module = types.ModuleType(NAME)
    module.triangle_attention = triangle_attention  # type: ignore[attr-defined]
    module.__spec__ = ModuleSpec(NAME, None)
    sys.modules[NAME] = module
