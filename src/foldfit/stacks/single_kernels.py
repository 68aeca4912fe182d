"""What the kernels of global and single attention cost: matrix products, bytes moved, moments, what autograd keeps.

Written by `python -m foldfit.profile.moments`, which traces the sub-module; the contract test holds them. Letters: stacks/spec.py.
"""

from foldfit.stacks.spec import Phase

GLOBAL_UPDATE = Phase(
    matmuls=(
        "r n, r n c -> r c",
        "r c, c h d -> r h d",
        *("r n c, c d -> r n d",) * 2,
        "r n c, c h d -> r n h d",
        "r h d, r n d -> r h n",
        "r h n, r n d -> r h d",
        "r n h d, h d c -> r n c",
    ),
    back_matmuls=("r n, r n c -> r c", "r n, r n e -> r e")
    + 2
    * (
        "r c, c h d -> r h d",
        "r n c, c d -> r n d",
        "r n c, c d -> r n d",
        "r n c, c h d -> r n h d",
        "r h d, r n d -> r h n",
        "r h n, r n d -> r h d",
        "r n h d, h d c -> r n c",
    ),
    biases=(("gating_b", "r n"), ("output_b", "r n")),
    moves="6 r n e + 3 e c + 6 r e + 7 r n c + 4 r n d + 6 r n h + 2 d c + e + f32 4 r n + 2 r c + 11 r n + 3 c + f32 4 r",
    calls=21,
    back_moves="16 r n e + 6 e c + 10 r e + 23 r n c + 10 r n d + 11 r n h + 4 d c + e + 5 r c + 2 r h + 9 r n + 5 c",
    back_calls=34,
    forward=(
        "r n c + f32 r n + f32 2 r",
        "r n c + f32 2 r n + f32 r",
        "r e + r n c + 2 r n d + r n h + f32 r n + r c + 2 r n",
        "2 r e + r n c + 2 r n d + 2 r n h + f32 r n + r c",
        "2 r n e + r e + 2 r n c + f32 r n + r c",
    ),
    record=(
        "r n c + f32 3 r n + f32 2 r",
        "r n c + f32 4 r n + f32 r",
        "2 r e + r n c + 2 r n d + r n h + f32 3 r n + r c + 3 r n",
        "3 r e + r n c + 2 r n d + 2 r n h + f32 3 r n + r c + r n",
        "2 r n e + 2 r e + 2 r n c + 2 r n d + r n h + f32 3 r n + r c + r n",
    ),
    saved="2 r n e + 2 r e + r n c + 2 r n d + r n h + f32 2 r n + r c + r n",
    backward=(
        "3 r n e + e c + 3 r e + r n c + 2 r n d + r n h + f32 2 r n + r c + 2 r n + c",
        "r n e + 2 e c + 2 r e + 2 r n c + 2 r n d + r n h + e + f32 2 r n + r c + 2 r n + c",
        "2 e c + 2 r e + 2 r n c + 3 r n d + 2 r n h + e + f32 2 r n + r c + r n + c",
        "2 e c + r e + 2 r n c + 2 r n d + 3 r n h + e + f32 2 r n + r c + r h + r n + c",
        "2 e c + r e + 3 r n c + 2 r n d + d c + e + f32 2 r n + r c + r n + c",
        "2 e c + r e + 4 r n c + r n d + d c + e + f32 2 r n + r c + r n + c",
        "2 e c + r e + 3 r n c + r n d + 2 d c + e + f32 2 r n + r c + r n + c",
        "3 e c + r e + r n c + 2 d c + e + f32 2 r n + 2 r c + r n + c",
        "3 e c + 2 r n c + 2 d c + e + f32 2 r n + r c + r n + c",
        "3 e c + 3 r n c + 2 d c + e + f32 2 r n + c",
        "3 e c + 2 r n c + 2 d c + e + f32 2 r n + 3 c",
    ),
)

SINGLE_SHARE = Phase(
    matmuls=(*("r c, c h d -> r h d",) * 2,),
    moves="2 e c + 2 r e + 4 r c + 2 c + 2 r",
    calls=3,
    back_moves="4 e c + 4 r e + 10 r c + 4 c + 2 r",
    back_calls=6,
    forward=("r c + f32 2 r", "2 r e + r c"),
    record=("2 r e + r c + f32 2 r",),
    saved="r c + f32 2 r",
    backward=("2 e c + 3 r c + f32 2 r", "2 e c + 2 r c + 2 c + f32 2 r"),
)

SINGLE_UPDATE = Phase(
    matmuls=(*("r c, c h d -> r h d",) * 2, "r k z, z h -> r k h", "r h d, k h d -> r h k", "r h k, k h d -> r h d", "r h d, h d c -> r c"),
    biases=(("query_b", "r"),),
    moves="2 k e + 3 e c + 10 r h k + 3 r k z + 12 r e + e + h z + 2 r k + 5 r c + 5 k + 2 c + 2 r + 2 z",
    calls=16,
    back_moves="4 k e + 6 e c + 13 r h k + 5 r k z + 25 r e + e + 2 h z + 2 r k + 12 r c + 2 r h + 4 c + 4 r + 4 z",
    back_calls=25,
    forward=(
        "r c + f32 2 r",
        "r k z + f32 2 r k + r c",
        "r h k + r k z + r c",
        "2 r h k + r e + r c + 2 k",
        "3 r h k + 2 r e + r c",
        "r h k + 3 r e + 2 r c",
    ),
    record=(
        "2 r h k + r k z + 2 r e + f32 2 r k + r c + 2 k + f32 2 r",
        "3 r h k + r k z + 3 r e + f32 2 r k + r c + f32 2 r",
        "2 r h k + r k z + 4 r e + f32 2 r k + 2 r c + f32 2 r",
    ),
    saved="r h k + r k z + 4 r e + f32 2 r k + r c + f32 2 r",
    backward=(
        "e c + r h k + r k z + 6 r e + f32 2 r k + r c + f32 2 r",
        "2 e c + r h k + r k z + 3 r e + f32 2 r k + 2 r c + f32 2 r",
        "k e + 2 e c + 2 r h k + r k z + 2 r e + f32 2 r k + 2 r c + f32 2 r",
        "k e + 2 e c + 3 r h k + r k z + r e + f32 2 r k + 2 r c + r h + f32 2 r",
        "2 k e + 2 e c + r h k + r k z + 2 r e + f32 2 r k + 2 r c + f32 2 r",
        "2 k e + 3 e c + r h k + r k z + r e + e + f32 2 r k + 3 r c + f32 2 r + r",
        "2 k e + 3 e c + r h k + 2 r k z + e + f32 2 r k + h z + r c + f32 2 r",
        "2 k e + 3 e c + 2 r k z + e + f32 2 r k + h z + r c + f32 2 r + 2 z",
        "2 k e + 3 e c + r k z + e + h z + 2 r c + 2 c + f32 2 r + 2 z",
    ),
)
