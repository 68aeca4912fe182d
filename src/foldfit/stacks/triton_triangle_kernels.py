"""What the Triton kernels of triangle multiplication cost: matrix products, bytes moved, moments, what autograd keeps.

Each backward kernel leaves what its parameters' gradients are sums of in parts, a part for every 512 tokens at the most.
In bf16 on NVIDIA Hopper they are ops/hopper_triangle.py and its backward, in as many bytes.
Written by `python -m foldfit.profile.moments`, which traces the sub-module; the contract test holds them. Letters: stacks/spec.py.
"""

from foldfit.stacks.spec import Phase

GATED_PARTS = "f32 2 c u + f32 2 u + f32 0.00390625 r n c u + f32 0.00390625 r n u"
UPDATE_PARTS = "f32 c c + f32 c u + f32 2 c + f32 0.001953125 r n c c + f32 0.001953125 r n c u + f32 0.00390625 r n c"

TRIANGLE_SHARE = Phase(
    strided=True,
    matmuls=(*("r n c, c u -> r n u",) * 2,),
    back_matmuls=("r n c, c u -> r n u",) * 6,
    moves="r n c + r n u + 4 c u + r n",
    calls=2,
    back_moves=f"2 r n c + r n u + 8 c u + r n + {GATED_PARTS}",
    back_calls=3,
    forward=("r n u + 2 c u + f32 2 u",),
    record=("r n u + 2 c u + f32 2 u",),
    saved="",
    backward=(f"r n c + 4 c u + f32 2 u + 4 c + 2 u + {GATED_PARTS}",),
)

TRIANGLE_UPDATE = Phase(
    strided=True,
    matmuls=(*("r n c, c u -> r n u",) * 2, "r u n, R u n -> r R u", "r n u, u c -> r n c", "r n c, c z -> r n z"),
    back_matmuls=(
        *("r n c, c u -> r n u",) * 6,
        *("r u n, R u n -> r R u",) * 2,
        *("r n u, u c -> r n c",) * 3,
        *("r n c, c z -> r n z",) * 3,
    ),
    moves="R n u + 3 r n c + 4 r n u + 2 c c + 6 c u + r n",
    calls=5,
    back_moves=f"2 R n u + 8 r n c + 7 r n u + 6 c c + 12 c u + r n + {GATED_PARTS} + {UPDATE_PARTS}",
    back_calls=9,
    forward=("r n u + 2 c u + f32 2 u", "2 r n u", "r n c + r n u + c c + c u + f32 2 c"),
    record=("r n u + 2 c u + f32 2 u", "r n c + 2 r n u + c c + c u + f32 2 c"),
    saved="2 r n u",
    backward=(
        f"r n c + 3 r n u + 2 c c + 2 c u + f32 2 c + 4 c + 2 u + {UPDATE_PARTS}",
        "R n u + r n c + 4 r n u + c c + c u + 4 c + 2 u",
        f"R n u + 2 r n c + r n u + c c + 5 c u + f32 2 u + 8 c + 4 u + {GATED_PARTS}",
        "R n u + 3 r n c + c c + 3 c u + 6 c + 4 u",
    ),
)

TRIANGLE_ENDS = ("r n c + c c + c u + f32 2 c",)
"""Of `conclude`: those of the update, beside its product."""
