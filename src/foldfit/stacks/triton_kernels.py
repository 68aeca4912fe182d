"""What the Triton kernels cost: matrix products, bytes moved, moments, what autograd keeps.

A bias whose rows are not aligned is copied (15 more keys at the most), and counted as if it always were; on NVIDIA Hopper it is
for long rows in bf16, scaled (ops/hopper_attention.py), in as many bytes. Partial sums of the backward are counted at their most:
0.5 r n e of the bias' gradient, h c / 64 bytes a token of its projection's, c / 16 of the norm's, (e + c) / 32 of the biases'.
Written by `python -m foldfit.profile.moments`, which traces the sub-module; the contract test holds them. Letters: stacks/spec.py.
"""

from foldfit.stacks.spec import Phase

ROW_SHARE = Phase(
    strided=True,
    matmuls=("r n z, z h -> r n h",),
    moves="r n h + r n z + h z + 2 z",
    calls=1,
    back_moves="r n h + 2 r n z + f32 0.0078125 r n h z + 2 h z + 4 z",
    back_calls=5,
    forward=("r n h",),
    record=("r n h",),
    saved="",
    backward=("r n z + f32 0.00390625 r n h z + f32 0.00390625 r n h + f32 h z + f32 h + h z + 2 z",),
)

TRIANGLE_BIAS = Phase(
    strided=True,
    matmuls=("r n c, c h -> r n h",),
    moves="r n h + r n c + h c + 2 c",
    calls=1,
    back_moves="r n h + 2 r n c + f32 0.0078125 r n h c + 2 h c + 4 c",
    back_calls=5,
    forward=("r n h",),
    record=("r n h",),
    saved="",
    backward=("r n c + f32 0.00390625 r n h c + f32 0.00390625 r n h + f32 h c + f32 h + h c + 2 c",),
)

ATTENTION = Phase(
    strided=True,
    matmuls=(*("r n c, c h d -> r n h d",) * 4, "r n h d, r k h d -> r h n k", "r h n k, r k h d -> r n h d", "r n h d, h d c -> r n c"),
    back_matmuls=(*("r n c, c h d -> r n h d",) * 8, *("r n h d, r k h d -> r h n k",) * 9, *("r n h d, h d c -> r n c",) * 2),
    moves="5 n h k + 15 n h + 6 r n e + 13 e c + 14 e + 4 r n c + 2 e + c + f32 r",
    calls=10,
    back_moves="11 n h k + 30 n h + 13 r n e + 5 e c + f32 2 r n h + 6 r n c + f32 e + e + f32 5 c + 3 c",
    back_calls=15,
    forward=("4 e c + 7 e + r n c", "4 r n e + 4 e c + 4 e + r n c", "n h k + 15 n h + 5 r n e + 4 e c + f32 r", "r n e + r n c + f32 r"),
    record=(
        "4 e c + 7 e + r n c",
        "4 r n e + 4 e c + 4 e + r n c",
        "n h k + 15 n h + 5 r n e + 4 e c + f32 r n h + f32 r",
        "5 r n e + 4 e c + f32 r n h + r n c + f32 r",
    ),
    saved="5 r n e + 4 e c + f32 r n h + f32 r",
    backward=(
        "9 r n e + 5 e c + f32 2 r n h + f32 0.0078125 r n e + f32 0.0078125 r n c + r n + f32 e + f32 c + e + c + f32 r",
        "2 n h k + 15 n h + 8.5 r n e + 5 e c + f32 2 r n h + e + c + f32 r",
        "3 n h k + 30 n h + 8 r n e + 5 e c + f32 2 r n h + e + c + f32 r",
        "4 r n e + 5 e c + n h k + 2 r n c + f32 0.015625 r n c + e + f32 4 c + 3 c + f32 r",
        "4 r n e + 9 e c + n h k + 2 r n c + e + 3 c + f32 r",
    ),
)

UNBIASED_ATTENTION = Phase(
    strided=True,
    matmuls=(*("r n c, c h d -> r n h d",) * 4, "r n h d, r k h d -> r h n k", "r h n k, r k h d -> r n h d", "r n h d, h d c -> r n c"),
    back_matmuls=(*("r n c, c h d -> r n h d",) * 8, *("r n h d, r k h d -> r h n k",) * 9, *("r n h d, h d c -> r n c",) * 2),
    moves="6 r n e + 13 e c + 14 e + 4 r n c + 2 e + c + f32 r",
    calls=8,
    back_moves="13 r n e + 5 e c + f32 2 r n h + 6 r n c + f32 e + e + f32 5 c + 3 c",
    back_calls=10,
    forward=("4 e c + 7 e + r n c", "4 r n e + 4 e c + 4 e + r n c", "5 r n e + 4 e c + f32 r", "r n e + r n c + f32 r"),
    record=("4 e c + 7 e + r n c", "4 r n e + 4 e c + 4 e + r n c", "5 r n e + 4 e c + f32 r n h + r n c + f32 r"),
    saved="5 r n e + 4 e c + f32 r n h + f32 r",
    backward=(
        "9 r n e + 5 e c + f32 2 r n h + f32 0.0078125 r n e + f32 0.0078125 r n c + r n + f32 e + f32 c + e + c + f32 r",
        "4 r n e + 5 e c + 2 r n c + f32 0.015625 r n c + e + f32 4 c + 3 c + f32 r",
        "4 r n e + 9 e c + 2 r n c + e + 3 c + f32 r",
    ),
)
