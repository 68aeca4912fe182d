"""What the Triton kernels of global column attention cost: matrix products, bytes moved, moments, what autograd keeps.

Written by `python -m foldfit.profile.moments`, which traces the sub-module; the contract test holds them. Letters: stacks/spec.py.
"""

from foldfit.stacks.spec import Phase

GLOBAL_ATTENTION = Phase(
    matmuls=(*("r n c, r h c -> r h n",) * 2, "r n c, c h d -> r n h d", "r n h d, h d c -> r n c"),
    back_matmuls=(*("r n c, r h c -> r h n",) * 7, *("r n c, c h d -> r n h d",) * 4, *("r n h d, h d c -> r n c",) * 3),
    moves="4 r n c + f32 r e + f32 2 r h c + f32 r c + f32 r h + f32 r",
    calls=2,
    back_moves="6 r n c + f32 4 r e c + f32 8 r e + f32 8 r h c + f32 22 r c + 6 e c + 4 d c",
    back_calls=24,
    forward=("f32 r e + f32 2 r h c + f32 r c + f32 r h + f32 r",),
    record=("f32 r e + f32 2 r h c + r n c + f32 r c + f32 r h + f32 r",),
    saved="f32 r e + f32 2 r h c + f32 r c + f32 r h + f32 r",
    backward=(
        "f32 2 r e c + 3 e c + f32 e c + f32 5 r e + f32 4 r h c + f32 3 r c + 2 d c + e + f32 r h + c + f32 r",
        "r n c + f32 11 r c + 3 e c + f32 2 r e + f32 3 r h c + 2 d c + e + f32 r h + f32 2 c + 3 c + f32 r",
    ),
)
