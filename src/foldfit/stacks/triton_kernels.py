"""What the Triton kernels cost: matrix products, bytes moved, moments, what autograd keeps.

A bias whose rows are not aligned is copied (15 more keys at the most), and counted as if it always were; on NVIDIA Hopper it is
for long rows in bf16, scaled (ops/hopper_attention.py), in as many bytes. Partial sums of the backward are counted at their most:
0.5 r n e of the bias' gradient, 4 bytes a token of the product's norm, c / 16 a token of the others.
Written by `python -m foldfit.profile.moments`, which traces the sub-module; the contract test holds them. Letters: stacks/spec.py.
"""

from foldfit.stacks.spec import Phase

ROW_SHARE = Phase(
    matmuls=("r n z, z h -> r n h",),
    moves="3 r n h + 3 r n z + h z",
    calls=3,
    back_moves="4 r n h + 4 r n z + f32 4 z + 2 h z + 2 z",
    back_calls=7,
    forward=("2 r n h + r n z",),
    record=("2 r n h + r n z",),
    saved="r n z",
    backward=("r n h + 2 r n z + h z", "2 r n z + h z + f32 0.015625 r n z + f32 4 z + 2 z"),
)

TRIANGLE_BIAS = Phase(
    matmuls=("r n c, c h -> r n h",),
    moves="3 r n h + 3 r n c + h c",
    calls=3,
    back_moves="4 r n h + 4 r n c + f32 4 c + 2 h c + 2 c",
    back_calls=7,
    forward=("2 r n h + r n c",),
    record=("2 r n h + r n c",),
    saved="r n c",
    backward=("r n h + 2 r n c + h c", "2 r n c + h c + f32 0.015625 r n c + f32 4 c + 2 c"),
)

ATTENTION = Phase(
    matmuls=(*("r n c, c h d -> r n h d",) * 4, "r n h d, r k h d -> r h n k", "r h n k, r k h d -> r n h d", "r n h d, h d c -> r n c"),
    back_matmuls=(*("r n c, c h d -> r n h d",) * 8, *("r n h d, r k h d -> r h n k",) * 9, *("r n h d, h d c -> r n c",) * 2),
    moves="5 n h k + 15 n h + 6 r n e + 13 e c + 14 e + f32 r n h + 4 r n c + 2 e + 3 c + f32 r",
    calls=11,
    back_moves="11 n h k + 30 n h + 19 r n e + 10 e c + f32 2 r n h + 9 r n c + e + 6 r n + 5 c",
    back_calls=16,
    forward=("4 e c + 7 e + r n c", "n h k + 15 n h + 5 r n e + 4 e c + 4 e + r n c + f32 r", "r n e + 2 r n c"),
    record=(
        "4 e c + 7 e + r n c",
        "n h k + 15 n h + 5 r n e + 4 e c + 4 e + f32 r n h + r n c + f32 r",
        "5 r n e + 4 e c + f32 r n h + 2 r n c + f32 r",
    ),
    saved="5 r n e + 4 e c + f32 r n h + r n c + f32 r",
    backward=(
        "2 n h k + 15 n h + 10.5 r n e + 5 e c + f32 2 r n h + r n c + c + f32 r",
        "3 n h k + 30 n h + 10 r n e + 5 e c + f32 2 r n h + r n c + c + f32 r",
        "10 r n e + 9 e c + f32 r n h + n h k + r n c + e + r n + c + f32 r",
        "10 r n e + 9 e c + f32 r n h + n h k + 2 r n c + e + c + f32 r",
        "5 e c + n h k + 2 r n c + e + f32 0.015625 r n c + f32 4 c + 3 c",
    ),
)

UNBIASED_ATTENTION = Phase(
    matmuls=(*("r n c, c h d -> r n h d",) * 4, "r n h d, r k h d -> r h n k", "r h n k, r k h d -> r n h d", "r n h d, h d c -> r n c"),
    back_matmuls=(*("r n c, c h d -> r n h d",) * 8, *("r n h d, r k h d -> r h n k",) * 9, *("r n h d, h d c -> r n c",) * 2),
    moves="6 r n e + 13 e c + 14 e + f32 r n h + 4 r n c + 2 e + 3 c + f32 r",
    calls=9,
    back_moves="19 r n e + 10 e c + f32 2 r n h + 9 r n c + e + 6 r n + 5 c",
    back_calls=11,
    forward=("4 e c + 7 e + r n c", "5 r n e + 4 e c + 4 e + r n c + f32 r", "r n e + 2 r n c"),
    record=("4 e c + 7 e + r n c", "5 r n e + 4 e c + 4 e + f32 r n h + r n c + f32 r", "5 r n e + 4 e c + f32 r n h + 2 r n c + f32 r"),
    saved="5 r n e + 4 e c + f32 r n h + r n c + f32 r",
    backward=(
        "10 r n e + 5 e c + f32 2 r n h + r n c + c + f32 r",
        "10 r n e + 9 e c + f32 r n h + r n c + e + r n + c + f32 r",
        "10 r n e + 9 e c + f32 r n h + 2 r n c + e + c + f32 r",
        "5 e c + 2 r n c + e + f32 0.015625 r n c + f32 4 c + 3 c",
    ),
)
