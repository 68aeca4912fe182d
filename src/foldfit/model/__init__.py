"""The sub-modules as mathematics."""

from foldfit.model.attention import Attention, GlobalAttention, RowAttentionWithPairBias, SingleAttention, TriangleAttention
from foldfit.model.submodule import SubModule
from foldfit.model.transition import SwiGLUTransition, Transition
from foldfit.model.triangle import OuterProductMean, TriangleMultiplication

SUB_MODULES: dict[str, type[SubModule]] = {
    "row_attention": RowAttentionWithPairBias,
    "column_attention": Attention,
    "global_attention": GlobalAttention,
    "single_attention": SingleAttention,
    "triangle_attention": TriangleAttention,
    "triangle_multiplication": TriangleMultiplication,
    "outer_product_mean": OuterProductMean,
    "transition": Transition,
    "swiglu_transition": SwiGLUTransition,
}
