"""AF3's trunk."""

from foldfit.stacks.attention import single_attention
from foldfit.stacks.pair import swiglu_transition, triangle_updates
from foldfit.stacks.spec import StackSpec

TRIANGLES = tuple(f"AF3 Suppl. Alg. {i}" for i in (12, 13, 14, 15))


def pairformer(
    c_s: int = 384,
    c_z: int = 128,
    single_heads: int = 16,
    single_dim: int = 24,
    pair_heads: int = 4,
    pair_dim: int = 32,
    c_hidden_mul: int = 128,
    transition_factor: int = 4,
) -> StackSpec:
    """AF3 Suppl. Alg. 17 "PairformerStack", lines 2-8."""
    widths = dict(locals())
    return StackSpec(
        "pairformer",
        "AF3 Suppl. Alg. 17",
        {"s": ("n_res", "c_s"), "z": ("n_res", "n_res", "c_z")},
        widths,
        (
            *triangle_updates(c_z, c_hidden_mul, pair_heads, pair_dim, biases=False, dropout=0.25, source=TRIANGLES),
            swiglu_transition("pair_transition", "AF3 Suppl. Alg. 11", "z", c_z, transition_factor * c_z),
            single_attention("single_attention", "AF3 Suppl. Alg. 24", ("s", 0), ("z", 0), c_s, c_z, single_heads, single_dim),
            swiglu_transition("single_transition", "AF3 Suppl. Alg. 11", "s", c_s, transition_factor * c_s),
        ),
        masks={"s": "seq_mask", "z": "pair_mask"},
    )
