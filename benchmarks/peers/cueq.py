"""cuEquivariance's attention and triangle multiplication, given what they like best: contiguous heads, stacked weights.

pip install cuequivariance-torch cuequivariance-ops-torch-cu13
"""

import torch
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor) -> Tensor:
    """q, k, v, gate [r, h, n, d], bias [1, h, n, n] -> gated [r, h, n, d]. Raises ImportError without the package."""
    from cuequivariance_torch import triangle_attention

    o = triangle_attention(q[None], k[None], v[None], bias[None])
    return gate.sigmoid() * o[0]  # type: ignore[union-attr, index]


def triangle_weights(c: int, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """Random ones of triangle multiplication, c channels all through."""
    shapes = {"p_in": (2 * c, c), "g_in": (2 * c, c), "p_out": (c, c), "g_out": (c, c)}
    out = {f"{name}_weight": torch.randn(shape, device=device) * shape[1] ** -0.5 for name, shape in shapes.items()}
    out |= {f"{name}_bias": 0.1 * torch.randn(shape[0], device=device) for name, shape in shapes.items()}
    for norm in ("norm_in", "norm_out"):
        out |= {f"{norm}_weight": 1 + 0.1 * torch.randn(c, device=device), f"{norm}_bias": 0.1 * torch.randn(c, device=device)}
    return {name: w.to(dtype) for name, w in out.items()}


def triangle(z: Tensor, mask: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """Outgoing: z [r, r, c], mask [r, r] -> its update [r, r, c]."""
    from cuequivariance_torch import triangle_multiplicative_update

    return triangle_multiplicative_update(z[None], "outgoing", mask[None], **weights)[0]


def triangle_reference(z: Tensor, mask: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """AF2 Suppl. Alg. 11 in plain PyTorch, on the same weights."""
    w, norm = weights, torch.nn.functional.layer_norm
    c = z.shape[-1]
    x = norm(z, (c,), w["norm_in_weight"], w["norm_in_bias"])
    ab = (x @ w["p_in_weight"].T + w["p_in_bias"]) * (x @ w["g_in_weight"].T + w["g_in_bias"]).sigmoid() * mask[..., None]
    product = torch.einsum("ikc,jkc->ijc", *ab.chunk(2, -1))
    out = norm(product, (c,), w["norm_out_weight"], w["norm_out_bias"]) @ w["p_out_weight"].T + w["p_out_bias"]
    return out * (x @ w["g_out_weight"].T + w["g_out_bias"]).sigmoid()
