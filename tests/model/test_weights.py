"""AlphaFold's parameter file: every fault is named."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldfit.errors import BadInput
from foldfit.model.weights import expected_keys, read_npz
from foldfit.runtime.trunk import Evoformer, Pairformer
from foldfit.stacks import stack_spec
from tests import small

WIDTHS = small.WIDTHS["evoformer"]
SPEC = stack_spec("evoformer", **WIDTHS)


def weights(blocks: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    out = {}
    for key, (i, name) in expected_keys(SPEC).items():
        sub = SPEC.sub_modules[i]
        parameter = sub.parameters[name]
        assert parameter is not None
        out[key] = rng.normal(size=(blocks, *(sub.widths[d] for d in parameter.dims.split()))).astype(np.float32)
    return out


def test_keys_are_the_published_ones():
    assert f"{SPEC.prefix}/msa_row_attention_with_pair_bias//feat_2d_weights" in expected_keys(SPEC)
    assert f"{SPEC.prefix}/triangle_multiplication_outgoing/left_projection//weights" in expected_keys(SPEC)
    assert f"{SPEC.prefix}/outer_product_mean//output_w" in expected_keys(SPEC)


def test_blocks_are_counted_and_filled(tmp_path):
    w = weights(3)
    np.savez(tmp_path / "params.npz", **w)
    model = Evoformer.from_alphafold(tmp_path / "params.npz", **WIDTHS)
    assert len(model.blocks) == 3
    key = f"{SPEC.prefix}/msa_transition/transition1//weights"
    np.testing.assert_array_equal(model.sub_modules()[2][2].up_w.detach().numpy(), w[key][2])


def broken(change) -> dict[str, np.ndarray]:
    w = weights()
    change(w)
    return w


KEY = f"{SPEC.prefix}/pair_transition/transition2//bias"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop(KEY), "transition2//bias is missing"),
        (lambda w: w.update({KEY: w[KEY][:, :3]}), r"shape \[2, 3\], expected \[2, 32\]"),
        (lambda w: w.update({KEY: w[KEY][:1]}), r"shape \[1, 32\], expected \[2, 32\]"),
        (lambda w: w.update({SPEC.prefix + "/other//weights": w[KEY]}), "other//weights is not a parameter of this stack"),
        (lambda w: w[KEY].__setitem__((0, 0), np.nan), "not finite"),
    ],
)
def test_what_is_wrong_is_named(change, words):
    with pytest.raises(BadInput, match=words):
        Evoformer(2, **WIDTHS).load_alphafold(broken(change))


def test_stacks_that_the_file_does_not_have():
    with pytest.raises(BadInput, match="no parameter of the evoformer"):
        Evoformer.from_alphafold({}, **WIDTHS)
    with pytest.raises(BadInput, match="has no pairformer"):
        Pairformer(1, **small.WIDTHS["pairformer"]).load_alphafold({})


def test_files_that_are_no_npz(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        read_npz(tmp_path / "none.npz")
    whole = tmp_path / "whole.npz"
    np.savez(whole, **weights(1))
    half = tmp_path / "half.npz"
    half.write_bytes(whole.read_bytes()[:1000])
    with pytest.raises(BadInput, match="not a readable"):
        read_npz(half)


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_any_bytes_are_bad_input(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("npz") / "x.npz"
    path.write_bytes(b"PK\x03\x04" + data)
    with pytest.raises(BadInput):
        read_npz(path)
