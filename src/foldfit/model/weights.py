"""Reads AlphaFold's published parameters: a `.npz`, or a mapping of the same keys; blocks are stacked in axis 0."""

import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from foldfit.errors import BadInput
from foldfit.model.submodule import SubModule
from foldfit.stacks.spec import StackSpec

Weights = Mapping[str, np.ndarray]


def read_npz(source: "str | os.PathLike[str] | Weights") -> Weights:
    """Raises BadInput when the file is not a readable `.npz`."""
    if isinstance(source, Mapping):
        return source
    path = Path(source)
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (
        OSError,
        ValueError,
        zipfile.BadZipFile,
        EOFError,
        AttributeError,
        KeyError,
        TypeError,
        NotImplementedError,
        zlib.error,
    ) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"not a readable .npz ({error})"
        raise BadInput(f"parameters {path}: {reason}; expected AlphaFold's params_model_N.npz") from None


def expected_keys(spec: StackSpec) -> dict[str, tuple[int, str]]:
    """Key in the file -> (index of the sub-module, name of its parameter)."""
    if not spec.prefix:
        raise BadInput(f"AlphaFold 2's file has no {spec.name}: expected an evoformer or extra_msa stack")
    return {
        f"{spec.prefix}/{sub.name}/{parameter.key}": (i, name)
        for i, sub in enumerate(spec.sub_modules)
        for name, parameter in sub.parameters.items()
        if parameter
    }


def count_blocks(spec: StackSpec, weights: Weights) -> int:
    """How many blocks the file has of this stack."""
    for key in expected_keys(spec):
        if key in weights and weights[key].ndim:
            return len(weights[key])
    raise BadInput(f"no parameter of the {spec.name} stack found: expected keys below {spec.prefix}")


@torch.no_grad()
def load_stack(spec: StackSpec, blocks: Sequence[Sequence[SubModule]], weights: Weights) -> None:
    """Copies the parameters in. Raises BadInput that names every missing, extra, mis-shaped or non-finite key."""
    keys = expected_keys(spec)
    faults = [f"{key} is missing" for key in keys if key not in weights]
    faults += [f"{key} is not a parameter of this stack" for key in weights if key.startswith(spec.prefix + "/") and key not in keys]
    for key, (i, name) in keys.items():
        if key not in weights:
            continue
        value = weights[key]
        expected = (len(blocks), *getattr(blocks[0][i], name).shape)
        if value.shape != expected:
            faults.append(f"{key} has shape {list(value.shape)}, expected {list(expected)}")
        elif value.dtype.kind != "f" or not np.isfinite(value).all():
            faults.append(f"{key} has values that are not finite numbers")
        elif not faults:
            for block, x in zip(blocks, value, strict=True):
                getattr(block[i], name).copy_(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)))
    if faults:
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        raise BadInput("parameters: " + "; ".join(faults[:3]) + more)
