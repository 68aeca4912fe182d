"""Compiles the outer product mean's kernel for NVIDIA Hopper, which has no interpreter, on any machine; run by
test_hopper_outer_product.py. Prints the bytes of shared memory that it takes, by sequences.
"""

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from foldfit.ops import hopper_outer_product as h

CASES = ((48, False, True), (256, True, False), (384, True, True), (512, False, False))
"""Sequences; whether residues are whole eights, whether there is a residual."""


def block(*shape: int) -> str:
    return f"tensordesc<bf16{list(shape)},{gl.NVMMASharedLayout(128, 16, rank=len(shape))!r}>"


def shared(n: int, eights: bool, adds: bool) -> int:
    (along_i, along_j), (a_slots, w_slots), k = h.tile_of(n), h.slots_of(n), h.K.value
    constants: dict[str, object] = {"XS": along_i, "YS": along_j, "CHUNKS": h.chunks_of(n), "CHANNELS": h.CHANNELS}
    constants |= {"A_SLOTS": a_slots, "W_SLOTS": w_slots, "REGISTERS": h.REGISTERS}
    if not adds:
        constants |= dict.fromkeys(("source", "factors"))
    types = dict.fromkeys(("w_b", "scale", "target", "source", "factors"), "*bf16")
    types["a_desc"] = block(h.X.value // 8, 2, 8, k) if eights else block(1, 8, k)
    types |= {"b_desc": block(h.Y.value * h.CHANNELS, k), "w_desc": block(2 * h.CHANNELS, h.WIDTH)}
    types |= dict.fromkeys(constants, "constexpr")
    names = h.outer_product_kernel.arg_names
    signature, values = {name: types.get(name, "i32") for name in names}, {(names.index(name),): v for name, v in constants.items()}
    source = GluonASTSource(h.outer_product_kernel, signature, values)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4}).metadata.shared


def main() -> None:
    for case in CASES:
        print(shared(*case))


if __name__ == "__main__":
    main()
