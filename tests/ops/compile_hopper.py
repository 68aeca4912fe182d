"""Compiles the kernel for NVIDIA Hopper, which has no interpreter, on any machine; run by test_hopper_attention.py.

Prints the bytes of shared memory that it takes.
"""

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon._runtime import GluonASTSource
from triton.experimental.gluon.language import NVMMASharedLayout

from foldfit.ops import hopper_attention as h

HEADS, DIM = 4, 32
POINTERS = {"bias": "fp16", "lse": "fp32", "lead": "i32"}


def block(dtype: str, *shape: int) -> str:
    return f"tensordesc<{dtype}{list(shape)},{NVMMASharedLayout(min(128, 2 * shape[-1]), 16, rank=len(shape))!r}>"


def main() -> None:
    tile = block("bf16", 1, h.KEYS, 1, DIM)
    blocks = {"k_desc": tile, "v_desc": tile, "bias_desc": block("fp16", h.PARTS * h.QUERIES, 1, h.KEYS)}
    constants: dict[str, object] = dict.fromkeys(("Q_H", "K_H", "V_H", "GATE_H", "D"), DIM)
    constants |= {"H": HEADS, "ROWS": h.ROWS, "PARTS": h.PARTS, "M": h.QUERIES, "K": h.KEYS, "STAGES": h.STAGES}
    constants |= {"REGISTERS": h.REGISTERS, "HAS_BIAS": True, "HAS_MASK": True, "HAS_LSE": True, "EVEN": False}
    names, signature = h.forward_kernel.arg_names, {}
    for name in names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in blocks:
            signature[name] = blocks[name]
        elif name in ("q", "k", "v", "gate", "bias", "mask", "lead", "o", "lse"):
            signature[name] = "*" + POINTERS.get(name, "bf16")
        else:
            signature[name] = "fp32" if name == "scale" else "i32"
    source = GluonASTSource(h.forward_kernel, signature, {(names.index(name),): value for name, value in constants.items()})
    print(triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4}).metadata.shared)


if __name__ == "__main__":
    main()
