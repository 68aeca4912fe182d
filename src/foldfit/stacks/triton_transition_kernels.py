"""What the Triton kernels of the transitions cost: matrix products, bytes moved, moments, what autograd keeps.

The backward holds the hidden layer of `q` elements at a time; the ReLU's at up to 128 channels holds sums of `s` shares of the rows instead.
Partial sums are counted at their most: 4 bytes for each of 128 elements of the hidden layer (of 64 in fp32), of the norm's c / 16 an
element; without a hidden layer 3 c for every 64 elements (32 in fp32).
In bf16 on NVIDIA Hopper the forward is ops/hopper_transition.py and the ReLU's masked gradient, at 256 channels,
ops/hopper_transition_backward.py, in as many bytes or fewer.
Written by `python -m foldfit.profile.moments`, which traces the sub-module; the contract test holds them. Letters: stacks/spec.py.
"""

from dataclasses import replace

from foldfit.stacks.spec import Phase

RELU_TRANSITION = Phase(
    matmuls=("r n c, c u -> r n u", "r n u, u c -> r n c"),
    back_matmuls=(*("r n c, c u -> r n u",) * 3, *("r n u, u c -> r n c",) * 2),
    moves="2 r n c + 2 c u + 3 c + u",
    calls=1,
    back_moves="11 r n c + 6 r n u + 12 c u + r n + 5 c + 2 u",
    back_calls=24,
    forward=("t r n c",),
    record=("r n c",),
    saved="",
    backward=(
        "r n c + q c + 2.015625 q u + f32 2 c u + f32 2 c + f32 3 u + c",
        "r n c + q c + 2 q u + f32 2 c u + f32 0.015625 q c + f32 6 c + f32 u + c",
        "r n c + q c + 2 q u + f32 2 c u + 2 c u + f32 2 c + f32 u + 3 c + u",
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
    forward=("t r n c",),
    record=("r n c",),
    saved="",
    backward=(
        "r n c + q c + 3 q u + f32 3 c u + f32 0.015625 q c + f32 6 c + f32 u",
        "r n c + q c + 3 q u + f32 3 c u + 3 c u + f32 2 c + f32 u + 2 c + u",
    ),
)
