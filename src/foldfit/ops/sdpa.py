"""PyTorch's fused attention (`scaled_dot_product_attention`) in place of the materialised soft-max."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from foldfit.ops.reference import REFERENCE, linear, masked_logit, update_by

ALIGN = 8  # elements: the fused CUDA kernels want head dims and bias rows in multiples of it


def attention(
    x: Tensor, query_w: Tensor, key_w: Tensor, value_w: Tensor, gate_w: Tensor, gate_b: Tensor | None, bias: Tensor | None, mask: Tensor
) -> Tensor:
    """x [r, n, c], bias [n, h, k], mask [r, k] -> [r, n, h, d].

    The key mask rides in one extra channel (q gets 1 / scale, k the masked logit), so that mask and bias together never
    become an [r, h, n, k] tensor.
    """
    q, k, v, gate = linear(x, query_w, None), linear(x, key_w, None), linear(x, value_w, None), linear(x, gate_w, gate_b)
    r, n, h, d = q.shape
    scale = d**-0.5
    one = q.new_zeros(ALIGN).index_fill_(0, torch.zeros(1, dtype=torch.long, device=q.device), 1.0)
    logit = ((1 - mask) * masked_logit(q.dtype)).to(q.dtype)[:, :, None, None]
    q = torch.cat([q, (one / scale).expand(r, n, h, ALIGN)], -1)
    k = torch.cat([k, (one * logit).expand(r, n, h, ALIGN)], -1)
    v = F.pad(v, (0, ALIGN))
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION] if q.is_cuda else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
        o = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=None if bias is None else bias.transpose(0, 1)[None],
            scale=scale,
        )[..., :d]
    return gate.sigmoid() * o.transpose(1, 2)


SDPA = replace(REFERENCE, attention=update_by(attention))
