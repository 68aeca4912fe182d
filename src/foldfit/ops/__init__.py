"""Kernels by name. `ops` is handed to a sub-module as one namespace; which one, the plan says."""

from foldfit.ops.cueq import CUEQ
from foldfit.ops.fused import TRITON
from foldfit.ops.namespace import Ops
from foldfit.ops.reference import REFERENCE
from foldfit.ops.sdpa import SDPA

KERNELS: dict[str, Ops] = {"reference": REFERENCE, "sdpa": SDPA, "triton": TRITON, "cueq": CUEQ}

__all__ = ["KERNELS", "Ops"]
