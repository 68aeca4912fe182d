"""Specs of the pair updates and transitions: AF2 Suppl. Alg. 9, 10, 11, 12, 15; AF3 Suppl. Alg. 11; and the pair stack they make."""

from foldfit.stacks.attention import attention, norm
from foldfit.stacks.kernels import NARROW_RELU_TRANSITION, OUTER_PRODUCT_MEAN, RELU_TRANSITION, SWIGLU_TRANSITION, TRIANGLE_MULTIPLICATION
from foldfit.stacks.spec import Axis, Parameter, SubModuleSpec


def linear(key: str, dims: str, bias: str | None, init: str = "lecun", bias_init: str = "zeros") -> tuple[Parameter, Parameter | None]:
    return Parameter(dims, f"{key}//weights", init), Parameter(bias, f"{key}//bias", bias_init) if bias else None  # type: ignore[arg-type]


def triangle_multiplication(
    name: str, algorithm: str, axis: Axis, c: int, hidden: int, *, biases: bool = True, dropout: float = 0.0
) -> SubModuleSpec:
    """By row (outgoing) or by column (incoming). AF2's mask of dropout is shared by the rows of the pair either way."""
    b = "u" if biases else None
    parameters: dict[str, Parameter | None] = norm("norm", "layer_norm_input")
    for side in ("left", "right"):
        parameters[f"{side}_w"], parameters[f"{side}_b"] = linear(f"{side}_projection", "c u", b)
        parameters[f"{side}_gate_w"], parameters[f"{side}_gate_b"] = linear(f"{side}_gate", "c u", b, bias_init="ones")
    parameters |= norm("center", "center_layer_norm", "u")
    parameters["output_w"], parameters["output_b"] = linear("output_projection", "u c", "c" if biases else None)
    parameters["gating_w"], parameters["gating_b"] = linear("gating_linear", "c c", "c" if biases else None, bias_init="ones")
    return SubModuleSpec(
        name,
        "triangle_multiplication",
        algorithm,
        (axis,),
        axis,
        {"c": c, "u": hidden, "z": c},
        parameters,
        TRIANGLE_MULTIPLICATION,
        shares=axis,
        shared=("R u n",),
        prepared=("r u n",),
        channels="u",
        dropout=dropout,
        dropout_over="r" if axis[1] == 0 else "n",
    )


def outer_product_mean(name: str, algorithm: str, msa: str, c_m: int, c_z: int, width: int) -> SubModuleSpec:
    """Reads the MSA by residue, writes the pair by row."""
    parameters: dict[str, Parameter | None] = norm("norm", "layer_norm_input")
    parameters["left_w"], parameters["left_b"] = linear("left_projection", "c o", "o")
    parameters["right_w"], parameters["right_b"] = linear("right_projection", "c p", "p")
    parameters["output_w"] = Parameter("o p z", "/output_w")
    parameters["output_b"] = Parameter("z", "/output_b", "zeros")
    return SubModuleSpec(
        name,
        "outer_product_mean",
        algorithm,
        ((msa, 1),),
        ("z", 0),
        {"c": c_m, "z": c_z, "o": width, "p": width},
        parameters,
        OUTER_PRODUCT_MEAN,
        shares=(msa, 1),
        shared=("R p n", "R n"),
        shared_masks=1,
        prepared=("r o n",),
    )


def transition(name: str, algorithm: str, tensor: str, c: int, hidden: int) -> SubModuleSpec:
    parameters: dict[str, Parameter | None] = norm("norm", "input_layer_norm")
    parameters["up_w"], parameters["up_b"] = linear("transition1", "c u", "u", "relu")
    parameters["down_w"], parameters["down_b"] = linear("transition2", "u c", "c")
    axis = (tensor, 0)
    widths, kernels = {"c": c, "u": hidden}, NARROW_RELU_TRANSITION if c <= 128 else RELU_TRANSITION
    return SubModuleSpec(name, "transition", algorithm, (axis,), axis, widths, parameters, kernels, pointwise=True)


def swiglu_transition(name: str, algorithm: str, tensor: str, c: int, hidden: int) -> SubModuleSpec:
    parameters: dict[str, Parameter | None] = norm("norm", "")
    parameters |= {"gate_w": Parameter("c u"), "up_w": Parameter("c u"), "down_w": Parameter("u c")}
    axis = (tensor, 0)
    widths = {"c": c, "u": hidden}
    return SubModuleSpec(name, "swiglu_transition", algorithm, (axis,), axis, widths, parameters, SWIGLU_TRANSITION, pointwise=True)


def triangle_updates(
    c_z: int, hidden: int, heads: int, dim: int, *, biases: bool, dropout: float, source: tuple[str, ...]
) -> tuple[SubModuleSpec, ...]:
    """The four triangle updates that AF2 Suppl. Alg. 6 and AF3 Suppl. Alg. 17 have in common; `source`: their algorithms."""
    row, column = ("z", 0), ("z", 1)
    return (
        triangle_multiplication("triangle_multiplication_outgoing", source[0], row, c_z, hidden, biases=biases, dropout=dropout),
        triangle_multiplication("triangle_multiplication_incoming", source[1], column, c_z, hidden, biases=biases, dropout=dropout),
        attention("triangle_attention_starting_node", source[2], row, c_z, heads, dim, bias_from=row, biases=biases, dropout=dropout),
        attention("triangle_attention_ending_node", source[3], column, c_z, heads, dim, bias_from=column, biases=biases, dropout=dropout),
    )
