"""cuEquivariance's `triangle_attention` in place of the materialised soft-max. The package is imported when a plan first runs it.

Its kernel wants heads before positions, contiguous, a bias in fp32 and a boolean mask: each copy is made here, once, so that all
its bytes are visible to the cost specs.
"""

from dataclasses import replace

import torch
from torch import Tensor

from foldfit.ops.reference import REFERENCE, linear, update_by


def attention(
    x: Tensor, query_w: Tensor, key_w: Tensor, value_w: Tensor, gate_w: Tensor, gate_b: Tensor | None, bias: Tensor | None, mask: Tensor
) -> Tensor:
    """x [r, n, c], bias [n, h, k], mask [r, k] -> [r, n, h, d]."""
    from cuequivariance_torch import triangle_attention

    assert bias is not None  # its kernel has no form without
    q, k, v = (linear(x, w, None).transpose(1, 2).contiguous() for w in (query_w, key_w, value_w))  # [r, h, n, d]
    logits = bias.transpose(0, 1).to(torch.float32, memory_format=torch.contiguous_format, copy=True)  # [h, n, k]
    o = triangle_attention(q[None], k[None], v[None], logits[None, None], mask.bool()[None, :, None, None])
    del q, k, v, logits
    return linear(x, gate_w, gate_b).sigmoid() * o.squeeze(0).transpose(1, 2)


CUEQ = replace(REFERENCE, attention=update_by(attention))
