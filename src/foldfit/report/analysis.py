"""Where the memory of a block goes: the study's "Memory Estimation", computed from the specs, beside its own formulas."""

from math import prod

import msgspec

from foldfit.cost.expression import terms
from foldfit.cost.memory import Setting, parameter_count, sub_module_bytes
from foldfit.cost.seconds import flops
from foldfit.cost.sizes import Shapes, shapes_of, sizes_of
from foldfit.plans import Choice
from foldfit.problem import Problem
from foldfit.stacks import SubModuleSpec

GPT3_6B7 = {"parameters": 12 * 4096**2 + 13 * 4096, "layers": 32, "output": 2048 * 4096}
"""A block of GPT-3 6.7B (Brown et al. 2020, table 2.1): 4096 wide, 2048 tokens, 32 heads of 128."""
GPT3_ACTIVATION = 2048 * (4096 * (1 + 3 + 1 + 1 + 4 + 4) + 2 * 32 * 2048)
"""Elements it keeps unfused: layer norms, q k v, attention logits and weights, two hidden layers (1 per 4096 otherwise)."""


class SubModuleRow(msgspec.Struct, frozen=True):
    """Elements, not bytes: the study counts in elements. `study`: its formula for the peak, where it has one."""

    name: str
    algorithm: str
    output: int
    largest: int
    preserved: int
    flops: int
    parameters: int
    study: int | None
    study_formula: str


class Analysis(msgspec.Struct, frozen=True):
    stack: str
    blocks: int
    itemsize: int
    rows: tuple[SubModuleRow, ...]
    block_parameters: int
    block_output: int
    block_activation: int
    """Elements kept for backward by a whole block that recomputes nothing."""
    study_output: int
    study_versions: int
    """The study's 3 s r c_m + 6 s r^2 c_z, taken as printed."""
    versions: int
    """What it means: 3 s r c_m + 6 r^2 c_z."""
    gpt3_parameters: int
    gpt3_activation: int
    gpt3_output: int
    remarks: tuple[str, ...]


def study_peak(sub: SubModuleSpec, shapes: Shapes) -> tuple[int | None, str]:
    """The study's formula for the peak of a sub-module, in elements."""
    w = sub.widths
    axes = shapes.axes[sub.reads[0][0]]
    s, r = (axes[0], axes[1]) if len(axes) == 2 else (1, axes[0])
    match sub.kind:
        case "row_attention":
            return w["h"] * s * r * r, "h s r^2"
        case "column_attention":
            return w["h"] * s * s * r, "h s^2 r"
        case "triangle_attention":
            return w["h"] * r**3, "h r^3"
        case "triangle_multiplication":
            return r * r * w["u"], "r^2 c"
        case "outer_product_mean":
            return r * r * w["o"] * w["p"], "r^2 c^2"
        case "transition":
            return s * r * w["u"], "4 s r c_m" if sub.reads[0][0] != "z" else "4 r^2 c_z"
        case _:
            return None, ""


def analyze(problem: Problem) -> list[Analysis]:
    """One a stack; by the reference kernels, whole, for one sample."""
    return [analyze_stack(problem, i) for i in range(len(problem.stacks))]


def analyze_stack(problem: Problem, index: int) -> Analysis:
    stack = problem.stacks[index]
    spec, shapes = shapes_of(problem, stack)
    setting = Setting(shapes, 1)
    rows, versions, kept = [], 0, 0
    for sub in spec.sub_modules:
        kernel = sub.kernels["reference"]["cpu"]
        sizes = sizes_of(sub, sub.reads[0], shapes, 10**9)
        phases = [(kernel.update, sub.reads[0])] + ([(kernel.share, sub.shares)] if kernel.share and sub.shares else [])
        saved = sub_module_bytes(sub, kernel, Choice("reference", 10**9, 10**9), setting).saved
        largest = max(prod(sizes[x] for x in letters) for moment in kernel.update.forward for _, _, letters in terms(moment))
        formula, text = study_peak(sub, shapes)
        written = shapes.elements(sub.writes[0])
        versions, kept = versions + written, kept + saved
        rows.append(SubModuleRow(
            sub.name, sub.algorithm, written, largest, saved, sum(flops(p, sub, a, setting, 10**9)[0] for p, a in phases),
            parameter_count(sub), formula, text,
        ))  # fmt: skip
    parameters = sum(row.parameters for row in rows)
    s, r = max(stack.rows, 1), problem.n_res
    c_m = next((c for name, c in shapes.channels.items() if name != "z"), 0)
    output = sum(shapes.elements(name) for name in shapes.axes)
    remarks = []
    if stack.name == "evoformer":
        remarks.append(
            f"the study's table gives an Evoformer block under 1 M parameters; with all biases and gates it has {parameters / 1e6:.2f} M"
        )
        remarks.append(
            "the study's 6 s r^2 c_z for the outputs inside a block has an s too many: the pair has no sequence axis, "
            f"so it is 6 r^2 c_z, {s} times less"
        )
    return Analysis(
        stack.name, stack.blocks, problem.itemsize, tuple(rows), parameters, output, versions + kept,
        s * r * c_m + r * r * shapes.channels["z"], 3 * s * r * c_m + 6 * s * r * r * shapes.channels["z"], versions,
        GPT3_6B7["parameters"], GPT3_ACTIVATION, GPT3_6B7["output"], tuple(remarks),
    )  # fmt: skip
