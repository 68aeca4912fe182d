"""Fit any AlphaFold-type trunk into the memory you have, by the fastest schedule that fits.

Names are imported when they are used: planning never imports torch.
"""

import importlib
from typing import Any

from foldfit._version import __version__

_HOME = {
    "Evoformer": "foldfit.runtime.trunk",
    "ExtraMSAStack": "foldfit.runtime.trunk",
    "Pairformer": "foldfit.runtime.trunk",
    "Trunk": "foldfit.runtime.trunk",
    "shard": "foldfit.runtime.shards",
    "unshard": "foldfit.runtime.shards",
    "measure": "foldfit.runtime.measure",
    "Measured": "foldfit.runtime.measure",
    "plan": "foldfit.api",
    "compare": "foldfit.api",
    "max_length": "foldfit.api",
    "frontier": "foldfit.api",
    "Plan": "foldfit.plans",
    "Problem": "foldfit.problem",
    "Stack": "foldfit.problem",
    "policy": "foldfit.planner.policies",
    "BlockChoice": "foldfit.planner.policies",
    "OptionTable": "foldfit.planner.options",
    "find_option": "foldfit.planner.policies",
    "BadInput": "foldfit.errors",
    "BrokenPromise": "foldfit.errors",
    "DoesNotFit": "foldfit.errors",
    "MissingEnvironment": "foldfit.errors",
    "NotSupported": "foldfit.errors",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'foldfit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
