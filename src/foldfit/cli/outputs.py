"""Files that a verb is to write."""

from collections.abc import Iterable
from pathlib import Path

from foldfit.errors import BadInput


def refuse_to_overwrite(paths: Iterable[Path], force: bool) -> None:
    """Raises BadInput for one that is there, unless it is to be overwritten."""
    for path in paths:
        if path.exists() and not force:
            raise BadInput(f"{path} exists: give another name, or --force")
