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


def shared(kernel, columns: tuple[str, ...], tokens: int, options: dict[str, int]) -> int:
    """columns: the descriptors of [c, r, n]."""
    constants = {"T": tokens, "C": CHANNELS, **{name: options[name] for name in ("WARPS", "STAGES") if name in kernel.arg_names}}
    names, signature = kernel.arg_names, {}
    for name in names:
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_desc"):
            signature[name] = block(CHANNELS, 1, tokens) if name in columns else block(1, tokens, CHANNELS)
        else:
            signature[name] = {"mask": "*bf16", "f": "*bf16", "bias": "*fp32", "parts": "*fp32"}.get(name, "i32")
    source = GluonASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()})
    launch = {name: value for name, value in options.items() if name in ("num_warps", "maxnreg") and value}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=launch).metadata.shared


def main() -> None:
    tile = forward.GATED
    print(shared(forward.gated_kernel, ("out_desc",), tile.tokens, tile.options))
    tile = forward.EPILOGUE
    print(shared(forward.epilogue_kernel, ("o_desc",), tile.tokens, tile.options))
    options = {"WARPS": backward.WARPS, "num_warps": backward.WARPS}
    print(shared(backward.gated_backward_kernel, ("d_desc",), backward.TOKENS, options))
    print(shared(backward.epilogue_backward_kernel, ("o_desc", "d_o_desc"), backward.TOKENS, options))


if __name__ == "__main__":
    main()
