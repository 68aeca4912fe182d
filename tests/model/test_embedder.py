"""AF2's input embedder, against loops over positions."""

import numpy as np
import pytest
import torch

from foldfit.errors import BadInput
from foldfit.inputs.a3m import parse_a3m
from foldfit.inputs.features import featurise
from foldfit.model.embedder import PREFIX, ExtraMSAEmbedder, InputEmbedder, embed

ALIGNMENT = parse_a3m(b">q\nACDEFGHIKL\n>1\nACDEFGH-KL\n>2\nA--EFGHIKL\n")


def weights(c_m: int, c_z: int, c_e: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = {
        "preprocess_1d": (22, c_m), "preprocess_msa": (49, c_m), "left_single": (22, c_z), "right_single": (22, c_z),
        "pair_activiations": (65, c_z), "extra_msa_activations": (25, c_e),
    }  # fmt: skip
    out = {}
    for name, (c_in, c_out) in sizes.items():
        out[f"{PREFIX}/{name}//weights"] = rng.normal(size=(c_in, c_out)).astype(np.float32)
        out[f"{PREFIX}/{name}//bias"] = rng.normal(size=c_out).astype(np.float32)
    return out


def test_m_z_and_e_are_alphafolds():
    w, f = weights(6, 5, 4), featurise(ALIGNMENT, 2, 3)
    got = embed(f, w, {"c_m": 6, "c_z": 5, "c_e": 4}, True, True)

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ w[f"{PREFIX}/{name}//weights"] + w[f"{PREFIX}/{name}//bias"]

    for i in range(10):
        for s in range(2):
            expected = linear("preprocess_msa", f.msa_feat[s, i]) + linear("preprocess_1d", f.target_feat[i])
            np.testing.assert_allclose(got["m"][s, i], expected, rtol=1e-4, atol=1e-5)
        for j in range(10):
            offset = np.zeros(65, np.float32)
            offset[min(max(i - j + 32, 0), 64)] = 1
            expected = (
                linear("left_single", f.target_feat[i]) + linear("right_single", f.target_feat[j]) + linear("pair_activiations", offset)
            )
            np.testing.assert_allclose(got["z"][i, j], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["e"], linear("extra_msa_activations", f.extra_msa_feat), rtol=1e-4, atol=1e-5)
    assert set(got) == {"m", "z", "e", "msa_mask", "pair_mask", "extra_msa_mask"}


def test_offsets_beyond_32_count_as_32():
    embedder = InputEmbedder(4, 3)
    index = torch.tensor([0, 32, 500])
    _, z = embedder(torch.zeros(3, 22), index, torch.zeros(1, 3, 49))
    assert torch.equal(z[1, 0], z[2, 0]) and torch.equal(z[0, 1], z[0, 2]) and not torch.equal(z[0, 1], z[1, 0])


def test_gradients_reach_every_parameter():
    embedder, extra = InputEmbedder(4, 3), ExtraMSAEmbedder(2)
    m, z = embedder(torch.randn(3, 22), torch.arange(3), torch.randn(2, 3, 49))
    (m.sum() + z.sum() + extra(torch.randn(2, 3, 25)).sum()).backward()
    assert all(p.grad is not None for p in (*embedder.parameters(), *extra.parameters()))


def test_a_missing_key_is_named():
    w = weights(6, 5, 4)
    del w[f"{PREFIX}/left_single//bias"]
    with pytest.raises(BadInput, match="left_single//bias is missing"):
        embed(featurise(ALIGNMENT, 2, 3), w, {"c_m": 6, "c_z": 5, "c_e": 4}, True, True)
