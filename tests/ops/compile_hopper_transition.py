"""Compiles the transitions' kernels for NVIDIA Hopper, which have no interpreter, on any machine; run by test_hopper_transition.py.

Prints the bytes of shared memory that each takes.
"""

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from foldfit.ops import hopper_transition as forward
from foldfit.ops import hopper_transition_backward as backward


def block(*shape: int) -> str:
    return f"tensordesc<bf16{list(shape)},{gl.NVMMASharedLayout(128, 16)!r}>"


def compiled(kernel, blocks: dict[str, str], constants: dict[str, object], warps: int):
    names = kernel.arg_names
    types = dict.fromkeys(("rows", "tiles", "u"), "i32") | {"sums": "*fp32"} | blocks | dict.fromkeys(constants, "constexpr")
    source = GluonASTSource(kernel, {n: types.get(n, "*bf16") for n in names}, {(names.index(n),): v for n, v in constants.items()})
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})


def transition(c: int, gated: bool):
    u, ups, downs = forward.BLOCKS[c, gated]
    constants = {"GROUPS": forward.GROUPS, "UPS": ups, "DOWNS": downs, "REGISTERS": forward.REGISTERS, "GATED": gated}
    constants |= dict.fromkeys(("up_b", "down_b") if gated else ("gate_desc",))
    blocks = {"x_desc": block(forward.ROWS, c), "up_desc": block(c, u), "gate_desc": block(c, u), "down_desc": block(u, c)}
    return compiled(forward.transition_kernel, blocks, constants, 4)


def hidden():
    rows, tile = block(backward.ROWS, backward.CHANNELS), block(backward.ROWS, backward.COLUMNS)
    blocks = {"d_out_desc": rows, "down_desc": block(backward.COLUMNS, backward.CHANNELS), "hidden_desc": tile, "up_desc": tile}
    return compiled(backward.hidden_kernel, blocks, {"STAGES": backward.STAGES, "WARPS": backward.WARPS}, backward.WARPS)


def main() -> None:
    for kernel in (*(transition(*each) for each in forward.BLOCKS), hidden()):
        print(kernel.metadata.shared)


if __name__ == "__main__":
    main()
