"""What the kernels of the attentions cost: matrix products, bytes moved, moments, what autograd keeps.

Written by `python -m foldfit.profile.moments`, which traces the sub-module; the contract test holds them. Letters: stacks/spec.py.
"""

from foldfit.stacks.spec import Phase

ROW_SHARE = Phase(
    matmuls=("r n z, z h -> r n h",),
    moves="3 r n h + 3 r n z + h z + 2 r n + 2 z",
    calls=3,
    back_moves="4 r n h + 5 r n z + 2 h z + 2 r n + 4 z",
    back_calls=4,
    forward=("r n z + f32 2 r n", "2 r n h + r n z"),
    record=("2 r n h + r n z + f32 2 r n",),
    saved="r n z + f32 2 r n",
    backward=("r n h + 2 r n z + f32 2 r n + h z", "2 r n z + f32 2 r n + h z + 2 z"),
)

UPDATE = Phase(
    matmuls=(*("r n c, c h d -> r n h d",) * 4, "r n h d, r k h d -> r h n k", "r h n k, r k h d -> r n h d", "r n h d, h d c -> r n c"),
    biases=(("gating_b", "r n"), ("output_b", "r n")),
    moves="22 r n e + 8 r h n k + 5 e c + n h k + 7 r n c + e + 7 r n + 3 c",
    calls=19,
    back_moves="39 r n e + 37 r h n k + 10 e c + n h k + 24 r n c + 2 r n h + e + 6 r n + 5 c",
    back_calls=44,
    forward=(
        "r n c + f32 2 r n",
        "7 r n e + r n c",
        "6 r n e + r h n k + r n c",
        "4 r n e + r h n k + r n c + 2 r n",
        "4 r n e + 2 r h n k + r n c",
        "r n e + 2 r n c",
    ),
    record=(
        "6 r n e + r h n k + r n c + f32 2 r n + 2 r n",
        "6 r n e + 2 r h n k + r n c + f32 2 r n",
        "10 r n e + r h n k + r n c + f32 2 r n",
        "6 r n e + r h n k + 2 r n c + f32 2 r n",
    ),
    saved="6 r n e + r h n k + r n c + f32 2 r n",
    backward=(
        "7 r n e + r h n k + e c + r n c + f32 2 r n + r n + c",
        "8 r n e + r h n k + e c + r n c + f32 2 r n + c",
        "6 r n e + 2 r h n k + e c + r n c + f32 2 r n + c",
        "4 r n e + 3 r h n k + e c + r n c + r n h + f32 2 r n + c",
        "4 r n e + 3 r h n k + e c + n h k + r n c + f32 2 r n + c",
        "6 r n e + r h n k + e c + n h k + r n c + f32 2 r n + c",
        "4 r n e + 2 e c + n h k + 2 r n c + e + f32 2 r n + r n + c",
        "3 r n e + 3 e c + n h k + 3 r n c + e + f32 2 r n + c",
        "2 r n e + 3 e c + n h k + 4 r n c + e + f32 2 r n + c",
        "2 r n e + 4 e c + n h k + 3 r n c + e + f32 2 r n + c",
        "r n e + 4 e c + n h k + 4 r n c + e + f32 2 r n + c",
        "r n e + 5 e c + n h k + 3 r n c + e + f32 2 r n + c",
        "5 e c + n h k + 2 r n c + e + f32 2 r n + 3 c",
    ),
)

UNBIASED_UPDATE = Phase(
    matmuls=(*("r n c, c h d -> r n h d",) * 4, "r n h d, r k h d -> r h n k", "r h n k, r k h d -> r n h d", "r n h d, h d c -> r n c"),
    biases=(("gating_b", "r n"), ("output_b", "r n")),
    moves="22 r n e + 6 r h n k + 5 e c + 7 r n c + e + 7 r n + 3 c",
    calls=18,
    back_moves="39 r n e + 26 r h n k + 10 e c + 24 r n c + 2 r n h + e + 6 r n + 5 c",
    back_calls=39,
    forward=(
        "r n c + f32 2 r n",
        "7 r n e + r n c",
        "6 r n e + r h n k + r n c",
        "4 r n e + r h n k + r n c + 2 r n",
        "4 r n e + 2 r h n k + r n c",
        "r n e + 2 r n c",
    ),
    record=(
        "6 r n e + r h n k + r n c + f32 2 r n + 2 r n",
        "6 r n e + 2 r h n k + r n c + f32 2 r n",
        "10 r n e + r h n k + r n c + f32 2 r n",
        "6 r n e + r h n k + 2 r n c + f32 2 r n",
    ),
    saved="6 r n e + r h n k + r n c + f32 2 r n",
    backward=(
        "7 r n e + r h n k + e c + r n c + f32 2 r n + r n + c",
        "8 r n e + r h n k + e c + r n c + f32 2 r n + c",
        "6 r n e + 2 r h n k + e c + r n c + f32 2 r n + c",
        "4 r n e + 3 r h n k + e c + r n c + r n h + f32 2 r n + c",
        "4 r n e + 2 e c + 2 r n c + e + f32 2 r n + r n + c",
        "3 r n e + 3 e c + 3 r n c + e + f32 2 r n + c",
        "2 r n e + 3 e c + 4 r n c + e + f32 2 r n + c",
        "2 r n e + 4 e c + 3 r n c + e + f32 2 r n + c",
        "r n e + 4 e c + 4 r n c + e + f32 2 r n + c",
        "r n e + 5 e c + 3 r n c + e + f32 2 r n + c",
        "5 e c + 2 r n c + e + f32 2 r n + 3 c",
    ),
)

TRIANGLE_SHARE = Phase(
    matmuls=("r n c, c h -> r n h",),
    moves="3 r n h + 3 r n c + h c + 2 r n + 2 c",
    calls=3,
    back_moves="4 r n h + 5 r n c + 2 h c + 2 r n + 4 c",
    back_calls=4,
    forward=("r n c + f32 2 r n", "2 r n h + r n c"),
    record=("2 r n h + r n c + f32 2 r n",),
    saved="r n c + f32 2 r n",
    backward=("r n h + 2 r n c + f32 2 r n + h c", "2 r n c + f32 2 r n + h c + 2 c"),
)
