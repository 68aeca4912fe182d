"""What the kernels of attention by PyTorch's fused kernel cost: matrix products, bytes moved, moments, what autograd keeps.

x is the head dim with the channel of the key mask, padded. On the CPU PyTorch has no fused gradient of the bias, so biased
attention cannot be recorded there. On CUDA its memory-efficient kernel makes the bias' gradient for every row before it is
summed, and adds up the others in fp32: both are added here to what the CPU shows.
Written by `python -m foldfit.profile.moments`, which traces the sub-module; the contract test holds them. Letters: stacks/spec.py.
"""

from foldfit.stacks.spec import Phase

UNBIASED_UPDATE = Phase(
    matmuls=(*("r n c, c h d -> r n h d",) * 4, "r n h d, r k h d -> r h n k", "r h n k, r k h d -> r n h d", "r n h d, h d c -> r n c"),
    biases=(("gating_b", "r n"), ("output_b", "r n")),
    moves="16 r n h + 8 r n + 14 r n e + 7 r n h x + 5 e c + f32 r n h + 7 r n c + e + 7 r n + 3 c",
    calls=19,
    back_moves="27 r n e + 10 r n h x + 10 e c + f32 r n h + 24 r n c + e + 6 r n + 5 c",
    back_calls=26,
    forward=(
        "r n c + f32 2 r n + 8",
        "4 r n e + r n c + 8",
        "4 r n e + r n c + 2 r n + 8",
        "4 r n e + r n h x + r n c + r n + 8",
        "8 r n + 3 r n e + 2 r n h x + r n c + r n + 8",
        "r n e + 4 r n h x + f32 r n h + r n c + r n + 8",
        "3 r n e + 4 r n h x + r n c + r n + 8",
        "r n e + 2 r n c + 8",
    ),
    record=(
        "4 r n e + r n c + f32 2 r n + 8",
        "4 r n e + r n c + f32 2 r n + 2 r n + 8",
        "4 r n e + r n h x + r n c + f32 2 r n + r n + 8",
        "8 r n + 3 r n e + 2 r n h x + r n c + f32 2 r n + r n + 8",
        "3 r n e + 4 r n h x + f32 r n h + r n c + f32 2 r n + r n + 8",
        "2 r n e + 4 r n h x + f32 r n h + 2 r n c + f32 2 r n + 8",
    ),
    saved="2 r n e + 4 r n h x + f32 r n h + r n c + f32 2 r n",
    backward=(
        "3 r n e + 4 r n h x + e c + f32 r n h + r n c + f32 2 r n + r n + c",
        "4 r n e + 4 r n h x + e c + f32 r n h + r n c + f32 2 r n + c",
        "2 r n e + 5 r n h x + e c + f32 r n h + r n c + f32 2 r n + c",
        "r n e + 8 r n h x + e c + f32 r n h + r n c + f32 2 r n + c",
        "2 r n e + 2 r n h x + 2 e c + 2 r n c + e + f32 2 r n + r n + c",
        "r n e + 2 r n h x + 3 e c + 3 r n c + e + f32 2 r n + c",
        "2 r n h x + 3 e c + 4 r n c + e + f32 2 r n + c",
        "r n e + r n h x + 4 e c + 3 r n c + e + f32 2 r n + c",
        "r n h x + 4 e c + 4 r n c + e + f32 2 r n + c",
        "r n e + 5 e c + 3 r n c + e + f32 2 r n + c",
        "5 e c + 2 r n c + e + f32 2 r n + 3 c",
    ),
)

CUDA_UNBIASED_UPDATE = Phase(
    matmuls=(*("r n c, c h d -> r n h d",) * 4, "r n h d, r k h d -> r h n k", "r h n k, r k h d -> r n h d", "r n h d, h d c -> r n c"),
    biases=(("gating_b", "r n"), ("output_b", "r n")),
    moves="16 r n h + 8 r n + 14 r n e + 7 r n h x + 5 e c + f32 r n h + 7 r n c + e + 7 r n + 3 c",
    calls=19,
    back_moves="27 r n e + 10 r n h x + 10 e c + f32 r n h + 24 r n c + e + 6 r n + 5 c",
    back_calls=26,
    forward=(
        "r n c + f32 2 r n + 8",
        "4 r n e + r n c + 8",
        "4 r n e + r n c + 2 r n + 8",
        "4 r n e + r n h x + r n c + r n + 8",
        "8 r n + 3 r n e + 2 r n h x + r n c + r n + 8",
        "r n e + 4 r n h x + f32 r n h + r n c + r n + 8",
        "3 r n e + 4 r n h x + r n c + r n + 8",
        "r n e + 2 r n c + 8",
    ),
    record=(
        "4 r n e + r n c + f32 2 r n + 8",
        "4 r n e + r n c + f32 2 r n + 2 r n + 8",
        "4 r n e + r n h x + r n c + f32 2 r n + r n + 8",
        "8 r n + 3 r n e + 2 r n h x + r n c + f32 2 r n + r n + 8",
        "3 r n e + 4 r n h x + f32 r n h + r n c + f32 2 r n + r n + 8",
        "2 r n e + 4 r n h x + f32 r n h + 2 r n c + f32 2 r n + 8",
    ),
    saved="2 r n e + 4 r n h x + f32 r n h + r n c + f32 2 r n",
    backward=(
        "3 r n e + 4 r n h x + e c + f32 r n h + r n c + f32 2 r n + r n + c",
        "4 r n e + 4 r n h x + e c + f32 r n h + r n c + f32 2 r n + c",
        "2 r n e + 5 r n h x + e c + f32 r n h + r n c + f32 2 r n + c",
        "r n e + 8 r n h x + f32 2 r n h x + r n h x + e c + f32 3 r n h + r n c + f32 2 r n + c",
        "2 r n e + 2 r n h x + 2 e c + 2 r n c + e + f32 2 r n + r n + c",
        "r n e + 2 r n h x + 3 e c + 3 r n c + e + f32 2 r n + c",
        "2 r n h x + 3 e c + 4 r n c + e + f32 2 r n + c",
        "r n e + r n h x + 4 e c + 3 r n c + e + f32 2 r n + c",
        "r n h x + 4 e c + 4 r n c + e + f32 2 r n + c",
        "r n e + 5 e c + 3 r n c + e + f32 2 r n + c",
        "5 e c + 2 r n c + e + f32 2 r n + 3 c",
    ),
)

CPU_UPDATE = Phase(
    matmuls=(*("r n c, c h d -> r n h d",) * 4, "r n h d, r k h d -> r h n k", "r h n k, r k h d -> r n h d", "r n h d, h d c -> r n c"),
    biases=(("gating_b", "r n"), ("output_b", "r n")),
    moves="16 r n h + 8 r n + 14 r n e + 7 r n h x + 5 e c + f32 r n h + n h k + 7 r n c + e + 7 r n + 3 c",
    calls=19,
    back_moves="",
    back_calls=0,
    forward=(
        "r n c + f32 2 r n + 8",
        "4 r n e + r n c + 8",
        "4 r n e + r n c + 2 r n + 8",
        "4 r n e + r n h x + r n c + r n + 8",
        "8 r n + 3 r n e + 2 r n h x + r n c + r n + 8",
        "r n e + 4 r n h x + f32 r n h + r n c + r n + 8",
        "3 r n e + 4 r n h x + r n c + r n + 8",
        "r n e + 2 r n c + 8",
    ),
    record=(),
    saved="",
    backward=(),
)

CUDA_UPDATE = Phase(
    matmuls=(*("r n c, c h d -> r n h d",) * 4, "r n h d, r k h d -> r h n k", "r h n k, r k h d -> r n h d", "r n h d, h d c -> r n c"),
    biases=(("gating_b", "r n"), ("output_b", "r n")),
    moves="n h k + 16 r n h + 8 r n + 14 r n e + 7 r n h x + 5 e c + f32 r n h + 7 r n c + e + 7 r n + 3 c",
    calls=19,
    back_moves="2 r h n k + 3 n h k + 27 r n e + 10 r n h x + 10 e c + f32 r n h + 24 r n c + e + 6 r n + 5 c",
    back_calls=26,
    forward=(
        "n h k + r n c + f32 2 r n + 8",
        "n h k + 4 r n e + r n c + 8",
        "n h k + 4 r n e + r n c + 2 r n + 8",
        "n h k + 4 r n e + r n h x + r n c + r n + 8",
        "n h k + 8 r n + 3 r n e + 2 r n h x + r n c + r n + 8",
        "n h k + r n e + 4 r n h x + f32 r n h + r n c + r n + 8",
        "n h k + 3 r n e + 4 r n h x + r n c + r n + 8",
        "n h k + r n e + 2 r n c + 8",
    ),
    record=(
        "n h k + 4 r n e + r n c + f32 2 r n + 8",
        "n h k + 4 r n e + r n c + f32 2 r n + 2 r n + 8",
        "n h k + 4 r n e + r n h x + r n c + f32 2 r n + r n + 8",
        "n h k + 8 r n + 3 r n e + 2 r n h x + r n c + f32 2 r n + r n + 8",
        "n h k + 3 r n e + 4 r n h x + f32 r n h + r n c + f32 2 r n + r n + 8",
        "n h k + 2 r n e + 4 r n h x + f32 r n h + 2 r n c + f32 2 r n + 8",
    ),
    saved="n h k + 2 r n e + 4 r n h x + f32 r n h + r n c + f32 2 r n",
    backward=(
        "3 r n e + 4 r n h x + e c + f32 r n h + r n c + f32 2 r n + r n + c",
        "4 r n e + 4 r n h x + e c + f32 r n h + r n c + f32 2 r n + c",
        "2 r n e + 5 r n h x + e c + f32 r n h + r n c + f32 2 r n + c",
        "r n e + 8 r n h x + f32 2 r n h x + r n h x + r h n k + e c + n h k + f32 3 r n h + r n c + f32 2 r n + c",
        "n h k + 2 r n e + 2 r n h x + 2 e c + 2 r n c + e + f32 2 r n + r n + c",
        "n h k + r n e + 2 r n h x + 3 e c + 3 r n c + e + f32 2 r n + c",
        "n h k + 2 r n h x + 3 e c + 4 r n c + e + f32 2 r n + c",
        "n h k + r n e + r n h x + 4 e c + 3 r n c + e + f32 2 r n + c",
        "n h k + r n h x + 4 e c + 4 r n c + e + f32 2 r n + c",
        "n h k + r n e + 5 e c + 3 r n c + e + f32 2 r n + c",
        "n h k + 5 e c + 2 r n c + e + f32 2 r n + 3 c",
    ),
)
