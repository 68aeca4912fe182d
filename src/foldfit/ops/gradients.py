"""Steps whose backward PyTorch would run with buffers of its own, on one device and not on another: here every tensor is
named, so that the cost specs hold everywhere. Shapes: ops/namespace.py; N is all elements of the leading axes."""

from typing import Any

import torch
from torch import Tensor


class Softmax(torch.autograd.Function):
    """Over the last axis. Backward holds three such tensors; PyTorch's own holds four on CUDA."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        weights = logits.softmax(-1)
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (weights,) = ctx.saved_tensors
        d = grad * weights
        return d.addcmul_(weights, d.sum(-1, keepdim=True), value=-1)


class BiasedLinear(torch.autograd.Function):
    """x [N, c], w [c, u], b [u] -> [N, u]. The bias' gradient is a product with ones: a column sum would take a workspace
    as large as its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return torch.addmm(b, x, w)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, w = ctx.saved_tensors
        return grad @ w.t(), x.t() @ grad, (grad.new_ones(1, len(grad)) @ grad)[0]


class Triangle(torch.autograd.Function):
    """a [r, u, n], b [R, u, n] -> sum over n of a b, [u, r, R]. Backward lays its gradient out once for both products."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return torch.bmm(a.transpose(0, 1), b.permute(1, 2, 0)).permute(1, 2, 0).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        g = grad.permute(2, 0, 1).contiguous()  # [u, r, R]
        d_a = torch.bmm(g, b.transpose(0, 1)).transpose(0, 1)
        return d_a, torch.bmm(g.transpose(1, 2), a.transpose(0, 1)).transpose(0, 1)


class GateQuery(torch.autograd.Function):
    """gate [r, n, e], o [r, e] -> gate * o, [r, n, e]. The sum over n in o's gradient is a product with ones."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, o: Tensor) -> Tensor:
        ctx.save_for_backward(gate, o)
        return gate * o[:, None]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, o = ctx.saved_tensors
        ones = grad.new_ones(len(grad), 1, grad.shape[1])
        d_o = torch.bmm(ones, grad * gate)[:, 0]
        return grad * o[:, None], d_o
