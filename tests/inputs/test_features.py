"""AF2's features, against slow loops."""

from math import atan, pi
from pathlib import Path

import numpy as np
import pytest

from foldfit.errors import BadInput
from foldfit.inputs.a3m import parse_a3m, read_a3m
from foldfit.inputs.features import GAP, featurise

SMALL = parse_a3m(b">q\nACDEF\n>1\nACDE-\n>2\nGCDEF\n>3\nG-aaDEF\n>4\nWWWWW\n>5\nWWWbWA\n>6\n-----\n>7\nACDKF\n")


def test_the_query_leads_and_the_seed_decides_the_rest():
    f, again, other = (featurise(SMALL, 3, 2, seed) for seed in (1, 1, 2))
    assert np.array_equal(f.msa_feat[0, :, :23].argmax(-1), SMALL.rows[0])
    assert all(np.array_equal(getattr(f, n), getattr(again, n)) for n in vars(f))
    assert any(not np.array_equal(featurise(SMALL, 3, 2, s).msa_feat, other.msa_feat) for s in range(5))


def test_profiles_and_deletion_means_are_those_of_the_nearest_rows():
    n_seq = 3
    f = featurise(SMALL, n_seq, 10, 4)
    rows, deletions = SMALL.rows, SMALL.deletions
    order = np.concatenate([[0], 1 + np.random.default_rng(4).permutation(len(rows) - 1)])
    members = {i: [c] for i, c in enumerate(order[:n_seq])}
    for row in order[n_seq:]:
        agreement = [sum(rows[row][j] == rows[c][j] != GAP for j in range(5)) for c in order[:n_seq]]
        members[int(np.argmax(agreement))].append(row)
    for i, group in members.items():
        for j in range(5):
            profile = np.bincount(rows[group][:, j], minlength=23) / len(group)
            np.testing.assert_allclose(f.msa_feat[i, j, 25:48], profile, atol=1e-5)
            mean = deletions[group][:, j].mean()
            assert f.msa_feat[i, j, 48] == pytest.approx(2 / pi * atan(mean / 3), abs=1e-5)


def test_deletions_of_a_row():
    f = featurise(SMALL, 8, 1, 0)
    row = next(r for r in f.msa_feat if (r[:, :23].argmax(-1) == SMALL.rows[3]).all())
    assert row[:, 23].tolist() == [0, 0, 1, 0, 0]
    assert row[2, 24] == pytest.approx(2 / pi * atan(2 / 3))


def test_rows_beyond_the_alignment_are_zero_and_masked():
    f = featurise(SMALL, 10, 4, 0)
    assert f.msa_mask.sum(1).tolist() == [5] * 8 + [0] * 2 and not f.msa_feat[8:].any()
    assert not f.extra_msa_mask.any() and not f.extra_msa_feat.any()
    g = featurise(SMALL, 6, 4, 0)
    assert g.extra_msa_mask.sum(1).tolist() == [5, 5, 0, 0]


def test_shapes_of_a_real_alignment():
    f = featurise(read_a3m(Path(__file__).parents[2] / "examples" / "6kwc.a3m"), 128, 512)
    shapes = {n: getattr(f, n).shape for n in vars(f)}
    assert shapes == {
        "target_feat": (191, 22), "msa_feat": (128, 191, 49), "extra_msa_feat": (512, 191, 25), "residue_index": (191,),
        "msa_mask": (128, 191), "extra_msa_mask": (512, 191), "pair_mask": (191, 191),
    }  # fmt: skip
    np.testing.assert_allclose(f.msa_feat[..., 25:48].sum(-1), 1, atol=1e-4)
    assert not f.target_feat[:, 0].any() and (f.target_feat.sum(1) == 1).all()


@pytest.mark.parametrize("rows", [0, -1, 2.5, True, "8"])
def test_numbers_of_rows_without_sense(rows):
    with pytest.raises(BadInput, match="n_seq"):
        featurise(SMALL, rows, 1)
