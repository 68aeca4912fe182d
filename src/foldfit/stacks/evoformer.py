"""AF2's two MSA stacks, as lists of sub-modules in the paper's order."""

from foldfit.stacks.attention import attention, global_attention
from foldfit.stacks.pair import outer_product_mean, transition, triangle_updates
from foldfit.stacks.spec import StackSpec, SubModuleSpec

TRIANGLES = tuple(f"AF2 Suppl. Alg. {i}" for i in (11, 12, 13, 14))


def pair_stack(
    msa: str, c_m: int, c_z: int, c_hidden_opm: int, c_hidden_mul: int, pair_heads: int, pair_dim: int, factor: int
) -> tuple[SubModuleSpec, ...]:
    """AF2 Suppl. Alg. 6, lines 5-10."""
    return (
        outer_product_mean("outer_product_mean", "AF2 Suppl. Alg. 10", msa, c_m, c_z, c_hidden_opm),
        *triangle_updates(c_z, c_hidden_mul, pair_heads, pair_dim, biases=True, dropout=0.25, source=TRIANGLES),
        transition("pair_transition", "AF2 Suppl. Alg. 15", "z", c_z, factor * c_z),
    )


def evoformer(
    c_m: int = 256,
    c_z: int = 128,
    msa_heads: int = 8,
    msa_dim: int = 32,
    pair_heads: int = 4,
    pair_dim: int = 32,
    c_hidden_opm: int = 32,
    c_hidden_mul: int = 128,
    transition_factor: int = 4,
) -> StackSpec:
    """AF2 Suppl. Alg. 6 "EvoformerStack", lines 2-10."""
    widths = dict(locals())
    row, column = ("m", 0), ("m", 1)
    return StackSpec(
        "evoformer",
        "AF2 Suppl. Alg. 6",
        {"m": ("n_seq", "n_res", "c_m"), "z": ("n_res", "n_res", "c_z")},
        widths,
        (
            attention(
                "msa_row_attention_with_pair_bias",
                "AF2 Suppl. Alg. 7",
                row,
                c_m,
                msa_heads,
                msa_dim,
                bias_from=("z", 0),
                c_bias=c_z,
                dropout=0.15,
            ),
            attention("msa_column_attention", "AF2 Suppl. Alg. 8", column, c_m, msa_heads, msa_dim),
            transition("msa_transition", "AF2 Suppl. Alg. 9", "m", c_m, transition_factor * c_m),
            *pair_stack("m", c_m, c_z, c_hidden_opm, c_hidden_mul, pair_heads, pair_dim, transition_factor),
        ),
        prefix="alphafold/alphafold_iteration/evoformer/evoformer_iteration",
        masks={"m": "msa_mask", "z": "pair_mask"},
    )


def extra_msa(
    c_e: int = 64,
    c_z: int = 128,
    msa_heads: int = 8,
    msa_dim: int = 8,
    pair_heads: int = 4,
    pair_dim: int = 32,
    c_hidden_opm: int = 32,
    c_hidden_mul: int = 128,
    transition_factor: int = 4,
) -> StackSpec:
    """AF2 Suppl. Alg. 18 "ExtraMsaStack": an Evoformer with global column attention; its MSA is the tensor `e`."""
    widths = dict(locals())
    row, column = ("e", 0), ("e", 1)
    return StackSpec(
        "extra_msa",
        "AF2 Suppl. Alg. 18",
        {"e": ("n_extra", "n_res", "c_e"), "z": ("n_res", "n_res", "c_z")},
        widths,
        (
            attention(
                "msa_row_attention_with_pair_bias",
                "AF2 Suppl. Alg. 7",
                row,
                c_e,
                msa_heads,
                msa_dim,
                bias_from=("z", 0),
                c_bias=c_z,
                dropout=0.15,
            ),
            global_attention("msa_column_global_attention", "AF2 Suppl. Alg. 19", column, c_e, msa_heads, msa_dim),
            transition("msa_transition", "AF2 Suppl. Alg. 9", "e", c_e, transition_factor * c_e),
            *pair_stack("e", c_e, c_z, c_hidden_opm, c_hidden_mul, pair_heads, pair_dim, transition_factor),
        ),
        prefix="alphafold/alphafold_iteration/evoformer/extra_msa_stack",
        default_blocks=4,
        masks={"e": "extra_msa_mask", "z": "pair_mask"},
    )
