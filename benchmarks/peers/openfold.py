"""OpenFold3's Evoformer stack (it ships AlphaFold 2's), with its own PyTorch attention or with cuEquivariance's kernels, and of its
parts the extra MSA stack, which it does not ship.

pip install openfold3==0.5.0
"""

import importlib.util
import sys
from types import ModuleType

import torch
from torch import Tensor, nn

KERNELS = {
    "OpenFold": {},
    "OpenFold, cuEq": {"use_cueq_triangle_kernels": True},
    "OpenFold, its Triton": {"use_triton_triangle_kernels": True},
}
SIZES = dict(
    c_m=256, c_z=128, c_hidden_msa_att=32, c_hidden_opm=32, c_hidden_mul=128, c_hidden_pair_att=32, c_s=384, no_heads_msa=8,
    no_heads_pair=4, transition_type="relu", transition_n=4, msa_dropout=0.15, pair_dropout=0.25, no_column_attention=False,
    opm_first=False, fuse_projection_weights=False, inf=1e9, eps=1e-10,
)  # fmt: skip


EXTRA = SIZES | {"c_m": 64, "c_hidden_msa_att": 8}
"""Of the extra MSA's stack, AF2 Suppl. 1.7.2."""


class Absent(ModuleType):
    """Stands for a package that only the data pipeline needs."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


def global_attention(c_m: int, c_hidden: int, heads: int) -> nn.Module:
    """OpenFold3's global column attention, called as its block calls column attention."""
    from openfold3.core.model.layers.msa import MSAColumnGlobalAttention

    class Column(MSAColumnGlobalAttention):
        def forward(self, m: Tensor, mask: Tensor, chunk_size: int | None = None, **kernels: bool) -> Tensor:
            return super().forward(m, mask, chunk_size)

    return Column(c_m, c_hidden, heads)


def stack(blocks: int, recompute: bool, extra: bool = False) -> nn.Module:
    """Raises ImportError where OpenFold3 is not installed. With `recompute`, each block is a checkpoint of its own; `extra`: the
    extra MSA's."""
    for name in ("biotite", "gemmi"):
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            sys.modules[name] = Absent(name)
            sys.modules["biotite.structure"] = Absent("biotite.structure")
            sys.modules[name].__version__ = "0"  # type: ignore[attr-defined]
    from openfold3.core.model.latent.evoformer import EvoformerStack

    sizes = EXTRA if extra else SIZES
    model = EvoformerStack(no_blocks=blocks, blocks_per_ckpt=1 if recompute else None, use_reentrant=False, **sizes)
    for block in model.blocks if extra else ():
        block.msa_att_col = global_attention(sizes["c_m"], sizes["c_hidden_msa_att"], sizes["no_heads_msa"])
    return model


def run(model: nn.Module, m: Tensor, z: Tensor, kernels: dict[str, bool], chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """m [n_seq, n_res, c_m], z [n_res, n_res, c_z] -> m, z."""
    masks = {"msa_mask": m.new_ones(1, *m.shape[:2]), "pair_mask": z.new_ones(1, *z.shape[:2])}
    in_place = {} if torch.is_grad_enabled() else {"inplace_safe": True}
    out = model(m[None], z[None], chunk_size=chunk, **masks, **kernels, **in_place)
    return out[0][0], out[1][0]
