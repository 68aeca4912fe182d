"""What attention by cuEquivariance costs: matrix products, bytes moved, moments, what autograd keeps.

Of its own its kernel holds the soft-max' statistics, and in backward the query's gradient in fp32 with one more such statistic: as
its version 0.13 does up to Hopper. Ours are the fp32 copy of the bias and those of q, k and v with the heads in front.
Written by `python -m foldfit.profile.moments`, which traces the sub-module; the contract test holds them. Letters: stacks/spec.py.
"""

from foldfit.stacks.spec import Phase

UPDATE = Phase(
    matmuls=(*("r n c, c h d -> r n h d",) * 4, "r n h d, r k h d -> r h n k", "r h n k, r k h d -> r n h d", "r n h d, h d c -> r n c"),
    back_matmuls=(*("r n c, c h d -> r n h d",) * 8, *("r n h d, r k h d -> r h n k",) * 5, *("r n h d, h d c -> r n c",) * 2),
    biases=(("gating_b", "r n"), ("output_b", "r n")),
    moves="20 r n e + 5 e c + f32 n h k + f32 2 r n h + n h k + 7 r n c + e + f32 2 r n + 2 r n + 3 c",
    calls=16,
    back_moves="f32 r n e + 37 r n e + 10 e c + f32 3 n h k + f32 3 r n h + n h k + 24 r n c + e + 6 r n + 5 c",
    back_calls=34,
    forward=("r n c + f32 2 r n", "4 r n e + f32 n h k + f32 2 r n h + r n c + r n", "r n e + 2 r n c"),
    record=("4 r n e + f32 n h k + f32 2 r n h + r n c + f32 2 r n + 2 r n", "6 r n e + f32 n h k + f32 r n h + 2 r n c + f32 2 r n + r n"),
    saved="6 r n e + f32 n h k + f32 r n h + r n c + f32 2 r n + r n",
    backward=(
        "7 r n e + e c + f32 n h k + f32 r n h + r n c + f32 2 r n + 2 r n + c",
        "6 r n e + 2 e c + f32 n h k + f32 r n h + 2 r n c + e + f32 2 r n + 2 r n + c",
        "f32 r n e + 9 r n e + 2 e c + f32 2 n h k + f32 4 r n h + 2 r n c + e + f32 2 r n + r n + c",
        "3 r n e + 2 e c + f32 n h k + n h k + 2 r n c + e + f32 2 r n + r n + c",
        "4 r n e + 2 e c + n h k + 2 r n c + e + f32 2 r n + r n + c",
        "3 r n e + 3 e c + n h k + 3 r n c + e + f32 2 r n + r n + c",
        "2 r n e + 3 e c + n h k + 4 r n c + e + f32 2 r n + r n + c",
        "2 r n e + 4 e c + n h k + 3 r n c + e + f32 2 r n + r n + c",
        "r n e + 4 e c + n h k + 4 r n c + e + f32 2 r n + r n + c",
        "r n e + 5 e c + n h k + 3 r n c + e + f32 2 r n + r n + c",
        "5 e c + n h k + 2 r n c + e + f32 2 r n + r n + 3 c",
    ),
)
