"""AF2's embedding of an alignment's features into m, z and the extra MSA: Suppl. Alg. 3, 4, 5."""

import os
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from foldfit.errors import BadInput
from foldfit.model.weights import Weights, read_npz

if TYPE_CHECKING:
    from foldfit.inputs.features import Features

PREFIX = "alphafold/alphafold_iteration/evoformer"
MAX_RELATIVE = 32
"""Offsets in the chain beyond it count as it: 65 bins."""


class Linear(nn.Module):
    """weights [in, out], bias [out], as AlphaFold's file has them below `key`."""

    def __init__(self, key: str, c_in: int, c_out: int) -> None:
        super().__init__()
        self.key = key
        self.weights = nn.Parameter(torch.empty(c_in, c_out))
        self.bias = nn.Parameter(torch.zeros(c_out))
        nn.init.trunc_normal_(self.weights, std=c_in**-0.5 / 0.87962566)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weights + self.bias

    @torch.no_grad()
    def load(self, weights: Weights) -> None:
        """Raises BadInput for a key that is missing or of another shape."""
        for name in ("weights", "bias"):
            parameter, key = getattr(self, name), f"{PREFIX}/{self.key}//{name}"
            value = weights.get(key)
            if value is None or value.shape != tuple(parameter.shape) or not np.isfinite(value).all():
                got = "is missing" if value is None else f"has shape {list(value.shape)} or values that are not finite"
                raise BadInput(f"parameters: {key} {got}, expected {list(parameter.shape)}")
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32)))


class InputEmbedder(nn.Module):
    """AF2 Suppl. Alg. 3 "InputEmbedder" with Alg. 4 "relpos" and Alg. 5 "one_hot"."""

    def __init__(self, c_m: int = 256, c_z: int = 128) -> None:
        super().__init__()
        self.target_m = Linear("preprocess_1d", 22, c_m)
        self.msa = Linear("preprocess_msa", 49, c_m)
        self.left = Linear("left_single", 22, c_z)
        self.right = Linear("right_single", 22, c_z)
        self.relative = Linear("pair_activiations", 2 * MAX_RELATIVE + 1, c_z)

    def forward(self, target_feat: Tensor, residue_index: Tensor, msa_feat: Tensor) -> tuple[Tensor, Tensor]:
        """[n_res, 22], [n_res], [n_seq, n_res, 49] -> m [n_seq, n_res, c_m], z [n_res, n_res, c_z]."""
        m = self.msa(msa_feat) + self.target_m(target_feat)
        z = self.left(target_feat)[:, None] + self.right(target_feat)[None]
        offset = residue_index[:, None] - residue_index[None]
        bins = torch.clip(offset + MAX_RELATIVE, 0, 2 * MAX_RELATIVE)
        return m, z + self.relative.weights[bins] + self.relative.bias


class ExtraMSAEmbedder(nn.Module):
    """AF2 Suppl. Alg. 2, line 14: a linear layer on the extra rows' features."""

    def __init__(self, c_e: int = 64) -> None:
        super().__init__()
        self.extra = Linear("extra_msa_activations", 25, c_e)

    def forward(self, extra_msa_feat: Tensor) -> Tensor:
        """[n_extra, n_res, 25] -> [n_extra, n_res, c_e]."""
        return self.extra(extra_msa_feat)


@torch.no_grad()
def embed(
    features: "Features", source: "str | os.PathLike[str] | Weights | None", widths: dict[str, int], msa: bool, extra: bool
) -> dict[str, Tensor]:
    """The inputs of AF2's stacks with their masks: m if `msa`, e if `extra`, z. `source`: AlphaFold's parameters, or None for
    random ones. Raises BadInput for a key that is missing or of another shape."""
    embedder = InputEmbedder(widths.get("c_m", 256), widths.get("c_z", 128))
    extra_embedder = ExtraMSAEmbedder(widths.get("c_e", 64))
    if source is not None:
        weights = read_npz(source)
        for linear in (*embedder.children(), *(extra_embedder.children() if extra else ())):
            linear.load(weights)  # type: ignore[operator]
    t = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in vars(features).items()}
    m, z = embedder(t["target_feat"], t["residue_index"], t["msa_feat"])
    out = {"z": z, "pair_mask": t["pair_mask"]}
    if msa:
        out |= {"m": m, "msa_mask": t["msa_mask"]}
    if extra:
        out |= {"e": extra_embedder(t["extra_msa_feat"]), "extra_msa_mask": t["extra_msa_mask"]}
    return out
