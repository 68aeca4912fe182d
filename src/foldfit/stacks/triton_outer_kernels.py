"""What the Triton kernels of the outer product mean cost: matrix products, bytes moved, moments, what autograd keeps.

Partial sums of a projection's backward are counted at their most, once more for every 256 tokens.
In bf16 on NVIDIA Hopper the forward is ops/hopper_outer_product.py, in as many bytes.
Written by `python -m foldfit.profile.moments`, which traces the sub-module; the contract test holds them. Letters: stacks/spec.py.
"""

from foldfit.stacks.spec import Phase

OUTER_SHARE = Phase(
    strided=True,
    matmuls=("r n c, c p -> r n p",),
    back_matmuls=("r n c, c p -> r n p",) * 3,
    moves="r n c + r n p + c p + r n + 2 c + p",
    calls=1,
    back_moves="3 r n c + 2 r n p + 4 c p + f32 4 c p + 2 r n + 4 c + p",
    back_calls=4,
    forward=("r n p",),
    record=("r n p",),
    saved="",
    backward=(
        "f32 0.00390625 r n c p + f32 0.00390625 r n p + f32 2 c p + f32 2 p",
        "f32 c p + c p + 2 c + f32 p + p",
        "r n c + c p + 2 c + p",
    ),
)

OUTER_UPDATE = Phase(
    strided=True,
    matmuls=("r n c, c o -> r n o", "r n, R n -> r R", "r o n, R p n -> r R o p", "r R o p, o p z -> r R z"),
    back_matmuls=(*("r n c, c o -> r n o",) * 3, *("r o n, R p n -> r R o p",) * 3, *("r R o p, o p z -> r R z",) * 2),
    biases=(("output_b", "r R"),),
    moves="R n p + r R z + r n c + 2 r n o + o z p + c o + 5 r n + R n + f32 2 r n + f32 2 R n + f32 8 r R + 2 r R + 2 c + o + 3 z",
    calls=11,
    back_moves="4 r R o p + 3 R n p + 3 r R z + 3 r n c + 5 r n o + 2 o z p + f32 4 o z p + 4 c o + f32 4 c o + 3 r R + 2 r n + 4 c + o + 3 z",
    back_calls=13,
    forward=(
        "r n o + r n",
        "r n o + f32 R n + f32 r R + f32 r n",
        "r n o + f32 4 r R + z",
        "r n o + f32 2 r R + r R + z",
        "r n o + f32 r R + r R + z + r w o + R w p",
    ),
    record=(
        "r n o + f32 R n + f32 r R + f32 r n + r n",
        "r n o + f32 4 r R + r n + z",
        "r n o + f32 2 r R + r R + r n + z",
        "r R z + r n o + f32 r R + r R + r n + z + r w o + R w p",
    ),
    saved="r n o + r R + r n",
    backward=(
        "r R o p + f32 g o z p + r n o + r R + r n + r w o + R w p",
        "f32 o z p + o z p + f32 g o z p + r n o + r R + r n + r w o + R w p",
        "r R o p + o z p + R n p + 2 r n o + r R + r n + z + r w o + 2 R w p",
        "o z p + R n p + f32 0.00390625 r n c o + r n o + f32 0.00390625 r n o + f32 2 c o + r n + f32 2 o + 2 z",
        "o z p + R n p + r n o + f32 c o + c o + r n + 2 c + f32 o + o + 2 z",
        "o z p + R n p + r n c + r n o + c o + r n + 2 c + o + 2 z",
    ),
)
