"""Specs of the attentions: AF2 Suppl. Alg. 7, 8, 13, 14, 19; AF3 Suppl. Alg. 24."""

from foldfit.stacks import kernels
from foldfit.stacks.spec import Axis, Parameter, SubModuleSpec


def norm(prefix: str, key: str, dim: str = "c") -> dict[str, Parameter | None]:
    return {f"{prefix}_scale": Parameter(dim, f"{key}//scale", "ones"), f"{prefix}_offset": Parameter(dim, f"{key}//offset", "zeros")}


def attention(
    name: str,
    algorithm: str,
    reads: Axis,
    c: int,
    heads: int,
    dim: int,
    *,
    bias_from: Axis | None = None,
    c_bias: int = 0,
    biases: bool = True,
    dropout: float = 0.0,
) -> SubModuleSpec:
    """Gated attention of `reads`' rows. `bias_from`: what the pair bias is a projection of; the triangle attentions share
    the layer norm of their rows with it, the row attention has one of its own. `biases`: AF2 has them, AF3 not."""
    triangle = bias_from == reads
    parameters: dict[str, Parameter | None] = norm("norm", "query_norm")
    if bias_from and not triangle:
        parameters |= norm("bias_norm", "feat_2d_norm", "z")
    if bias_from:
        parameters["bias_w"] = Parameter("c h" if triangle else "z h", "/feat_2d_weights")
    parameters |= {f"{x}_w": Parameter("c h d", f"attention//{x}_w") for x in ("query", "key", "value", "gating")}
    parameters["gating_b"] = Parameter("h d", "attention//gating_b", "ones") if biases else None
    parameters["output_w"] = Parameter("h d c", "attention//output_w")
    parameters["output_b"] = Parameter("c", "attention//output_b", "zeros") if biases else None
    kind = "triangle_attention" if triangle else "row_attention" if bias_from else "column_attention"
    kernels_of = {
        "triangle_attention": kernels.TRIANGLE_ATTENTION,
        "row_attention": kernels.ROW_ATTENTION,
        "column_attention": kernels.COLUMN_ATTENTION,
    }
    return SubModuleSpec(
        name,
        kind,
        algorithm,
        (reads,),
        reads,
        {"c": c, "z": c_bias or c, "h": heads, "d": dim, "e": heads * dim},
        parameters,
        kernels_of[kind],
        shares=bias_from,
        shared=("R h n",) if bias_from else (),
        dropout=dropout,
    )


def global_attention(name: str, algorithm: str, reads: Axis, c: int, heads: int, dim: int) -> SubModuleSpec:
    """One averaged query a row; keys and values have one head."""
    parameters: dict[str, Parameter | None] = norm("norm", "query_norm")
    parameters |= {
        "query_w": Parameter("c h d", "attention//query_w"),
        "key_w": Parameter("c d", "attention//key_w"),
        "value_w": Parameter("c d", "attention//value_w"),
        "gating_w": Parameter("c h d", "attention//gating_w"),
        "gating_b": Parameter("h d", "attention//gating_b", "ones"),
        "output_w": Parameter("h d c", "attention//output_w"),
        "output_b": Parameter("c", "attention//output_b", "zeros"),
    }
    widths = {"c": c, "h": heads, "d": dim, "e": heads * dim}
    return SubModuleSpec(name, "global_attention", algorithm, (reads,), reads, widths, parameters, kernels.GLOBAL_ATTENTION)


def single_attention(name: str, algorithm: str, tokens: Axis, pair: Axis, c: int, c_z: int, heads: int, dim: int) -> SubModuleSpec:
    """Tokens attend to all tokens; a token's bias comes from its own row of the pair, so nothing of the pair is gathered."""
    parameters: dict[str, Parameter | None] = norm("norm", "") | norm("bias_norm", "", "z")
    parameters |= {"bias_w": Parameter("z h"), "query_w": Parameter("c h d"), "query_b": Parameter("h d", init="zeros")}
    parameters |= {f"{x}_w": Parameter("c h d") for x in ("key", "value", "gating")}
    parameters["output_w"] = Parameter("h d c")
    widths = {"c": c, "z": c_z, "h": heads, "d": dim, "e": heads * dim}
    return SubModuleSpec(
        name,
        "single_attention",
        algorithm,
        (tokens, pair),
        tokens,
        widths,
        parameters,
        kernels.SINGLE_ATTENTION,
        shares=tokens,
        shared=("R e", "R e", "R"),
        shared_masks=1,
    )
