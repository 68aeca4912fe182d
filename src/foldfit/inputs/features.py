"""AF2's features of an alignment: Suppl. 1.2.7 (cluster centres, profiles, extra rows), without masking for BERT."""

from dataclasses import dataclass

import numpy as np

from foldfit.errors import BadInput
from foldfit.inputs.a3m import RESIDUES, Alignment

GAP = RESIDUES.index("-")
CLASSES = len(RESIDUES) + 1
"""20 residues, unknown, gap, and the mask token that AF2's embeddings have."""


@dataclass(frozen=True)
class Features:
    """All float32 but residue_index: target_feat [n_res, 22], msa_feat [n_seq, n_res, 49], extra_msa_feat [n_extra, n_res, 25],
    residue_index [n_res], msa_mask [n_seq, n_res], extra_msa_mask [n_extra, n_res], pair_mask [n_res, n_res].

    Rows beyond the alignment's are zero, and so are their masks.
    """

    target_feat: np.ndarray
    msa_feat: np.ndarray
    extra_msa_feat: np.ndarray
    residue_index: np.ndarray
    msa_mask: np.ndarray
    extra_msa_mask: np.ndarray
    pair_mask: np.ndarray


def featurise(alignment: Alignment, n_seq: int, n_extra: int, seed: int = 0) -> Features:
    """The query and n_seq - 1 sampled rows are cluster centres, n_extra of the rest the extra rows; the same seed gives the
    same sample. Raises BadInput for numbers of rows that are not whole or below 1."""
    for name, value in {"n_seq": n_seq, "n_extra": n_extra}.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BadInput(f"{name}: expected a whole number of rows of at least 1, got {value!r}")
    rows, deletions = alignment.rows, alignment.deletions.astype(np.float32)
    n_rows, n_res = rows.shape
    order = np.concatenate([[0], 1 + np.random.default_rng(seed).permutation(n_rows - 1)]).astype(int)
    centres, rest = order[:n_seq], order[n_seq:]
    profile, mean = clusters(rows, deletions, centres, rest)
    extra = rest[:n_extra]
    one_hot = np.eye(CLASSES, dtype=np.float32)
    msa = np.concatenate(
        [one_hot[rows[centres]], *deletion_features(deletions[centres]), profile, transformed(mean)[..., None]], -1
    )  # fmt: skip
    extra_msa = np.concatenate([one_hot[rows[extra]], *deletion_features(deletions[extra])], -1)
    target = np.concatenate([np.zeros((n_res, 1), np.float32), np.eye(21, dtype=np.float32)[rows[0]]], -1)
    return Features(
        target_feat=target,
        msa_feat=padded(msa, n_seq),
        extra_msa_feat=padded(extra_msa, n_extra),
        residue_index=np.arange(n_res),
        msa_mask=padded(np.ones((len(centres), n_res), np.float32), n_seq),
        extra_msa_mask=padded(np.ones((len(extra), n_res), np.float32), n_extra),
        pair_mask=np.ones((n_res, n_res), np.float32),
    )


def clusters(rows: np.ndarray, deletions: np.ndarray, centres: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(profile [n_seq, n_res, 23], mean deletions [n_seq, n_res]) of each centre and the rows nearest to it: those that agree
    with it in most residues, gaps not counted."""
    one_hot = np.eye(CLASSES, dtype=np.float32)
    profile, deleted = one_hot[rows[centres]], deletions[centres].copy()
    counts = np.ones(len(centres), np.float32)
    residues = np.eye(CLASSES, dtype=np.float32)
    residues[GAP:] = 0
    flat = residues[rows[centres]].reshape(len(centres), -1)
    for start in range(0, len(rest), 1024):
        part = rest[start : start + 1024]
        agreement = residues[rows[part]].reshape(len(part), -1) @ flat.T
        nearest = agreement.argmax(1)
        np.add.at(profile, nearest, one_hot[rows[part]])
        np.add.at(deleted, nearest, deletions[part])
        np.add.at(counts, nearest, 1)
    total = counts[:, None] + np.float32(1e-6)
    return profile / total[..., None], deleted / total


def transformed(deletions: np.ndarray) -> np.ndarray:
    """2 / pi * atan(d / 3): AF2 Suppl. table 1."""
    return (np.arctan(deletions / 3) * (2 / np.pi)).astype(np.float32)


def deletion_features(deletions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(has_deletion, deletion_value), each [rows, n_res, 1]."""
    return np.clip(deletions, 0, 1)[..., None], transformed(deletions)[..., None]


def padded(x: np.ndarray, rows: int) -> np.ndarray:
    return np.pad(x, [(0, rows - len(x))] + [(0, 0)] * (x.ndim - 1))
