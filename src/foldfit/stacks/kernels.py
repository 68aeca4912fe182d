"""Which kernels can run which sub-module, by device type."""

from collections.abc import Iterable
from typing import Any

from foldfit.errors import BadInput
from foldfit.stacks import attention_kernels as attention
from foldfit.stacks import cueq_kernels as cueq
from foldfit.stacks import pair_kernels as pair
from foldfit.stacks import sdpa_kernels as sdpa
from foldfit.stacks import single_kernels as single
from foldfit.stacks import triton_global_kernels as triton_global
from foldfit.stacks import triton_kernels as triton
from foldfit.stacks import triton_outer_kernels as triton_outer
from foldfit.stacks import triton_transition_kernels as triton_transition
from foldfit.stacks import triton_triangle_kernels as triton_triangle
from foldfit.stacks.spec import Kernel, Phase

CUEQ = "cuequivariance_torch"
INSTALL = {CUEQ: "cuequivariance-torch cuequivariance-ops-torch-cu13"}
"""Module of an optional package -> what pip calls it."""
PROVIDERS = ("cueq",)
"""Kernels of optional packages."""

Kernels = dict[str, dict[str, Kernel]]
"""Kernel name -> device type -> cost."""
HALF = ("bf16", "fp16")
"""Precisions of kernels that in fp32 storage would be slower than the library's products."""
EITHER = ("c", "u")
"""Of a transition by Triton: ops/triton_transition.py."""
LONG_ROWS = (("bf16", 1024),)
"""Of attention on NVIDIA Hopper: ops/hopper_attention.py."""
MANY_SEQUENCES = (("bf16", 257), ("bf16", 385), ("bf16", 513))
"""Of the outer product mean on NVIDIA Hopper: ops/hopper_outer_product.py, which ends before the last."""


def known_providers(names: Iterable[str]) -> tuple[str, ...]:
    """Raises BadInput for one that is none."""
    found = tuple(names)
    for name in found:
        if name not in PROVIDERS:
            raise BadInput(f"providers: expected {', '.join(PROVIDERS)}, got {name!r}")
    return found


def anywhere(update: Phase, share: Phase | None = None, **more: Any) -> dict[str, Kernel]:
    return {device: Kernel(update, share, **more) for device in ("cpu", "cuda")}


def fused(update: Phase, *widths: tuple[str, int, int], share: Phase | None = None, **more: Any) -> dict[str, Kernel]:
    """Ours in Triton, for CUDA."""
    return {"cuda": Kernel(update, share, within=widths, **more)}


def by_cueq(update: Phase, share: Phase) -> dict[str, Kernel]:
    """cuEquivariance's, at the sizes from which on it does not fall back to PyTorch."""
    return {"cuda": Kernel(update, share, within=(("d", 32, 32),), shortest=101, recorded=("tf32", "bf16", "fp16"), package=CUEQ)}


COLUMN_ATTENTION: Kernels = {
    "reference": anywhere(attention.UNBIASED_UPDATE),
    "sdpa": {"cpu": Kernel(sdpa.UNBIASED_UPDATE), "cuda": Kernel(sdpa.CUDA_UNBIASED_UPDATE)},
    "triton": fused(triton.UNBIASED_ATTENTION, ("d", 8, 64), turns=LONG_ROWS),
}
ROW_ATTENTION: Kernels = {
    "reference": anywhere(attention.UPDATE, attention.ROW_SHARE),
    "sdpa": {"cpu": Kernel(sdpa.CPU_UPDATE, attention.ROW_SHARE), "cuda": Kernel(sdpa.CUDA_UPDATE, attention.ROW_SHARE, multiple=8)},
    "triton": fused(triton.ATTENTION, ("d", 8, 64), ("z", 1, 512), share=triton.ROW_SHARE, turns=LONG_ROWS),
    "cueq": by_cueq(cueq.UPDATE, attention.ROW_SHARE),
}
TRIANGLE_ATTENTION: Kernels = {
    "reference": anywhere(attention.UPDATE, attention.TRIANGLE_SHARE),
    "sdpa": {
        "cpu": Kernel(sdpa.CPU_UPDATE, attention.TRIANGLE_SHARE),
        "cuda": Kernel(sdpa.CUDA_UPDATE, attention.TRIANGLE_SHARE, multiple=8),
    },
    "triton": fused(triton.ATTENTION, ("d", 8, 64), ("c", 1, 512), share=triton.TRIANGLE_BIAS, turns=LONG_ROWS),
    "cueq": by_cueq(cueq.UPDATE, attention.TRIANGLE_SHARE),
}
GLOBAL_ATTENTION: Kernels = {
    "reference": anywhere(single.GLOBAL_UPDATE),
    "triton": {"cuda": Kernel(triton_global.GLOBAL_ATTENTION, within=(("c", 1, 128), ("e", 1, 128)))},
}
SINGLE_ATTENTION: Kernels = {"reference": anywhere(single.SINGLE_UPDATE, single.SINGLE_SHARE)}
TRIANGLE_MULTIPLICATION: Kernels = {
    "reference": anywhere(pair.TRIANGLE_UPDATE, pair.TRIANGLE_SHARE, ends=pair.TRIANGLE_ENDS),
    "triton": fused(
        triton_triangle.TRIANGLE_UPDATE, ("u", 1, 256), share=triton_triangle.TRIANGLE_SHARE, ends=triton_triangle.TRIANGLE_ENDS
    ),
}
RELU_TRANSITION: Kernels = {
    "reference": anywhere(pair.RELU_UPDATE),
    "triton": fused(triton_transition.RELU_TRANSITION, ("c", 129, 256), sixteenths=EITHER),
}
NARROW_RELU_TRANSITION: Kernels = {
    "reference": anywhere(pair.RELU_UPDATE),
    "triton": {"cuda": Kernel(triton_transition.NARROW_RELU_TRANSITION, within=(("c", 1, 128),), sixteenths=EITHER, recorded=HALF)},
}
SWIGLU_TRANSITION: Kernels = {
    "reference": anywhere(pair.SWIGLU_UPDATE),
    "triton": {"cuda": Kernel(triton_transition.SWIGLU_TRANSITION, precisions=HALF, within=(("c", 1, 256),), sixteenths=EITHER)},
}
OUTER_PRODUCT_MEAN: Kernels = {
    "reference": anywhere(pair.OUTER_UPDATE, pair.OUTER_SHARE),
    "triton": fused(
        triton_outer.OUTER_UPDATE, ("c", 1, 256), ("z", 1, 128), ("p", 1, 128), share=triton_outer.OUTER_SHARE, turns=MANY_SEQUENCES
    ),
}
