"""What the kernels of triangle multiplication, outer product mean and the transitions cost: matrix products, bytes moved, moments, what autograd keeps.

Written by `python -m foldfit.profile.moments`, which traces the sub-module; the contract test holds them. Letters: stacks/spec.py.
"""

from foldfit.stacks.spec import Phase

TRIANGLE_SHARE = Phase(
    matmuls=(*("r n c, c u -> r n u",) * 2,),
    biases=(("right_b", "r n"), ("right_gate_b", "r n")),
    moves="4 r n c + 11 r n u + 2 c u + 3 r n + 2 c + 2 u",
    calls=7,
    back_moves="10 r n c + 21 r n u + 4 c u + 7 r n + 4 c + 2 u",
    back_calls=15,
    forward=("r n c + f32 2 r n", "r n c + 3 r n u"),
    record=("r n c + 4 r n u + f32 2 r n",),
    saved="r n c + 2 r n u + f32 2 r n",
    backward=(
        "r n c + 5 r n u + f32 2 r n",
        "2 r n c + 2 r n u + c u + f32 2 r n + r n + u",
        "3 r n c + r n u + 2 c u + f32 2 r n + r n + 2 u",
        "2 r n c + 2 c u + f32 2 r n + 2 c + 2 u",
    ),
)

TRIANGLE_UPDATE = Phase(
    matmuls=(*("r n c, c u -> r n u",) * 2, "r u n, R u n -> r R u", "r n u, u c -> r n c", "r n c, c z -> r n z"),
    biases=(("left_b", "r n"), ("left_gate_b", "r n"), ("gating_b", "r n"), ("output_b", "r R")),
    moves="R n u + 14 r n c + 18 r n u + c c + 3 c u + 5 r n + 6 c + 4 u",
    calls=15,
    back_moves="2 R n u + 35 r n c + 30 r n u + 2 c c + 6 c u + 15 r n + 16 c + 6 u",
    back_calls=33,
    forward=("r n c + 3 r n u", "2 r n u + f32 2 r n", "2 r n c + r n u + f32 2 r n", "3 r n c + r n u"),
    record=("5 r n c + 5 r n u + f32 6 r n",),
    saved="4 r n c + 5 r n u + f32 6 r n",
    backward=(
        "6 r n c + 5 r n u + f32 6 r n",
        "5 r n c + 5 r n u + c c + f32 6 r n + r n + c",
        "4 r n c + 5 r n u + c c + f32 6 r n + 3 c",
        "3 r n c + 6 r n u + c c + c u + f32 4 r n + r n + 4 c",
        "2 r n c + 6 r n u + c c + c u + f32 4 r n + 4 c + 2 u",
        "R n u + 2 r n c + 6 r n u + c c + c u + f32 2 r n + 4 c + 2 u",
        "R n u + 3 r n c + 2 r n u + c c + 2 c u + f32 2 r n + r n + 4 c + 3 u",
        "R n u + 4 r n c + r n u + c c + 3 c u + f32 2 r n + r n + 4 c + 4 u",
        "R n u + 3 r n c + c c + 3 c u + f32 2 r n + 6 c + 4 u",
        "R n u + 2 r n c + c c + 3 c u + 7 c + 4 u",
    ),
)

TRIANGLE_ENDS = ("2 r n u + f32 2 r n", "2 r n c + r n u + f32 2 r n", "3 r n c + r n u")
"""Of `conclude`: those of the update, behind its product."""

OUTER_SHARE = Phase(
    matmuls=("r n c, c p -> r n p",),
    biases=(("right_b", "r n"),),
    moves="3 r n c + 5 r n p + c p + 3 r n + 2 c + p",
    calls=4,
    back_moves="5 r n c + 8 r n p + 2 c p + 5 r n + 4 c + p",
    back_calls=7,
    forward=("r n c + f32 2 r n", "r n c + 2 r n p"),
    record=("r n c + 2 r n p + f32 2 r n",),
    saved="r n c + f32 2 r n",
    backward=("r n c + 2 r n p + f32 2 r n", "2 r n c + r n p + c p + f32 2 r n + r n + p", "2 r n c + c p + f32 2 r n + 2 c + p"),
)

OUTER_UPDATE = Phase(
    matmuls=("r n c, c o -> r n o", "r n, R n -> r R", "r o n, R p n -> r R o p", "r R o p, o p z -> r R z"),
    back_matmuls=2 * ("r n c, c o -> r n o", "r o n, R p n -> r R o p", "r R o p, o p z -> r R z"),
    biases=(("left_b", "r n"), ("output_b", "r R")),
    moves="4 r R o p + R n p + o z p + 3 r R z + 3 r n c + 6 r n o + R n + c o + f32 2 R n + f32 8 r R + f32 2 r n + 2 r R + 6 r n + 2 c + o + 3 z",
    calls=17,
    back_moves="6 r R o p + 2 R n p + 2 o z p + 6 r R z + 5 r n c + 10 r n o + 2 c o + 3 r R + 5 r n + 4 c + o + 3 z",
    back_calls=16,
    forward=(
        "r n c + f32 2 r n + r n",
        "r n c + 2 r n o + r n",
        "r n o + f32 R n + f32 r R + f32 r n",
        "r n o + f32 4 r R + z",
        "r n o + f32 2 r R + r R + z",
        "2 r R o p + r n o + f32 r R + r R + z",
        "r R o p + r R z + r n o + f32 r R + r R + z",
    ),
    record=(
        "r n c + 2 r n o + f32 2 r n + r n",
        "r n c + r n o + f32 R n + f32 r R + f32 3 r n + r n",
        "r n c + r n o + f32 4 r R + f32 2 r n + r n + z",
        "r n c + r n o + f32 2 r R + f32 2 r n + r R + r n + z",
        "2 r R o p + r n c + r n o + f32 r R + f32 2 r n + r R + r n + z",
        "r R o p + r R z + r n c + r n o + f32 r R + f32 2 r n + r R + r n + z",
    ),
    saved="r R o p + r n c + r n o + f32 2 r n + r R + r n",
    backward=(
        "2 r R o p + o z p + r R z + r n c + r n o + f32 2 r n + r R + r n + z",
        "r R o p + R n p + o z p + r n c + 2 r n o + f32 2 r n + r n + z",
        "R n p + o z p + r n c + r n o + f32 2 r n + r n + 2 z",
        "R n p + o z p + 2 r n c + r n o + c o + f32 2 r n + r n + o + z",
        "R n p + o z p + 2 r n c + c o + f32 2 r n + 2 c + o + z",
    ),
)

RELU_UPDATE = Phase(
    matmuls=("r n c, c u -> r n u", "r n u, u c -> r n c"),
    biases=(("up_b", "r n"), ("down_b", "r n")),
    moves="4 r n c + 4 r n u + 2 c u + 2 r n + 3 c + u",
    calls=4,
    back_moves="9 r n c + 9 r n u + 4 c u + 6 r n + 5 c + u",
    back_calls=10,
    forward=("r n c + f32 2 r n", "2 r n c + r n u"),
    record=("2 r n c + r n u + f32 2 r n",),
    saved="r n c + r n u + f32 2 r n",
    backward=(
        "r n c + 2 r n u + c u + f32 2 r n + r n + c",
        "r n c + 3 r n u + c u + f32 2 r n + c",
        "2 r n c + r n u + 2 c u + f32 2 r n + r n + c + u",
        "2 r n c + 2 c u + f32 2 r n + 3 c + u",
    ),
)

SWIGLU_UPDATE = Phase(
    matmuls=(*("r n c, c u -> r n u",) * 2, "r n u, u c -> r n c"),
    moves="5 r n c + 8 r n u + 3 c u + 2 r n + 2 c",
    calls=6,
    back_moves="12 r n c + 15 r n u + 6 c u + 2 r n + 4 c",
    back_calls=11,
    forward=("r n c + f32 2 r n", "r n c + 3 r n u", "2 r n c + r n u"),
    record=("2 r n c + 4 r n u + f32 2 r n",),
    saved="r n c + 4 r n u + f32 2 r n",
    backward=(
        "r n c + 6 r n u + c u + f32 2 r n",
        "2 r n c + 3 r n u + 2 c u + f32 2 r n",
        "3 r n c + r n u + 3 c u + f32 2 r n",
        "2 r n c + 3 c u + f32 2 r n + 2 c",
    ),
)
