"""Compiles the kernels of triangle multiplication for NVIDIA Hopper, which have no interpreter, on any machine; run by
test_hopper_triangle.py. Prints the bytes of shared memory that each takes.
"""

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from foldfit.ops import hopper_triangle as forward
from foldfit.ops import hopper_triangle_backward as backward

CHANNELS = forward.CHANNELS


def block(*shape: int) -> str:
    return f"tensordesc<bf16{list(shape)},{gl.NVMMASharedLayout(min(128, 2 * shape[-1]), 16, rank=3)!r}>"


def shared(kernel, columns: tuple[str, ...], add: bool = False, **options: int) -> int:
    """columns: the descriptors of [c, r, n]."""
    every: dict[str, object] = {
        "ADD": add,
        "T": forward.TOKENS,
        "C": CHANNELS,
        "WARPS": forward.WARPS,
        "STAGES": forward.STAGES,
        "REGISTERS": forward.REGISTERS,
    }
    names, signature = kernel.arg_names, {}
    for name in names:
        if name in every:
            signature[name] = "constexpr"
        elif name.endswith("_desc"):
            signature[name] = block(CHANNELS, 1, forward.TOKENS) if name in columns else block(1, forward.TOKENS, CHANNELS)
        else:
            signature[name] = {"mask": "*bf16", "f": "*bf16", "bias": "*fp32", "parts": "*fp32", "source": "*bf16"}.get(name, "i32")
    source = GluonASTSource(kernel, signature, {(names.index(name),): value for name, value in every.items() if name in names})
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": forward.WARPS, **options}).metadata.shared


def main() -> None:
    print(shared(forward.gated_kernel, ("out_desc",), maxnreg=forward.REGISTERS))
    print(max(shared(forward.epilogue_kernel, ("o_desc",), add) for add in (False, True)))
    print(shared(backward.gated_backward_kernel, ("d_desc",)))
    print(shared(backward.epilogue_backward_kernel, ("o_desc", "d_o_desc")))


if __name__ == "__main__":
    main()
