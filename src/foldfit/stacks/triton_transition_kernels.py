"""What the Triton kernels of the transitions cost: matrix products, bytes moved, moments, what autograd keeps.

The ReLU's backward holds sums of `s` shares of the rows; above 128 channels the hidden layer's gradient and a byte an element of where it
is above zero, in rows of a multiple of 16. SwiGLU's holds the hidden layer of `q` elements at a time. Partial sums of the norm are counted at
their most, c / 16 an element; of the narrow one 3 c for every 64 elements (32 in fp32).
Written by `python -m foldfit.profile.moments`, which traces the sub-module; the contract test holds them. Letters: stacks/spec.py.
"""

from dataclasses import replace

from foldfit.stacks.spec import Phase

RELU_TRANSITION = Phase(
    matmuls=("r n c, c u -> r n u", "r n u, u c -> r n c"),
    back_matmuls=(*("r n c, c u -> r n u",) * 2, *("r n u, u c -> r n c",) * 3),
    moves="2 r n c + 2 c u + 3 c + u",
    calls=1,
    back_moves="11 r n c + 2 r n u + f32 0.5 r n u + 5 c u + f32 4 s c u + r n + 5 c + 2 u",
    back_calls=18,
    forward=("r n c",),
    record=("r n c",),
    saved="",
    backward=(
        "r n c + f32 0.25 r n u + f32 s c u + f32 c u + f32 4 u + c",
        "r n c + r n u + f32 0.25 r n u + f32 s c u + f32 s u + f32 4 u + 16 u + c u + c",
        "r n c + r n u + f32 s c u + f32 s u + f32 c u + f32 u + 16 u + c u + c",
        "r n c + f32 0.015625 r n c + f32 4 c + 2 c u + u + c",
    ),
)

NARROW_RELU_TRANSITION = replace(
    RELU_TRANSITION,
    back_matmuls=(*("r n c, c u -> r n u",) * 5, *("r n u, u c -> r n c",) * 2),
    back_moves="7 r n c + 5 c u + f32 4 s c u + 4 c + 2 u",
    back_calls=8,
    backward=(
        "2.09375 r n c + f32 6 c",
        "2 r n c + f32 2 s c u + f32 s u + 3 c",
        "r n c + f32 2 s c u + f32 s u + f32 2 c u + f32 u + 3 c",
    ),
)
"""Up to 128 channels."""

SWIGLU_TRANSITION = Phase(
    matmuls=(*("r n c, c u -> r n u",) * 2, "r n u, u c -> r n c"),
    back_matmuls=(*("r n c, c u -> r n u",) * 5, *("r n u, u c -> r n c",) * 3),
    moves="2 r n c + 3 c u + 2 c",
    calls=1,
    back_moves="14 r n c + 12 r n u + 18 c u + 4 c",
    back_calls=24,
    forward=("r n c",),
    record=("r n c",),
    saved="",
    backward=("r n c + q c + 3 q u + f32 3 c u + f32 0.015625 q c + f32 6 c", "r n c + q c + 3 q u + f32 3 c u + 3 c u + f32 2 c + 2 c"),
)
