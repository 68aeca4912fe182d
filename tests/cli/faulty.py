"""`foldfit` whose rank 1 has the fault that the file `fault` beside the plan names."""

import os
import sys
from pathlib import Path

import torch

from foldfit.cli import main
from foldfit.runtime import check, trunk
from foldfit.runtime.executor import Executor


def out_of_memory(self, step):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


if __name__ == "__main__":
    fault = (Path(sys.argv[2]).parent / "fault").read_text()
    if os.environ["RANK"] == "1" and fault == "out of memory":
        Executor.do = out_of_memory  # type: ignore[method-assign]
    if os.environ["RANK"] == "1" and fault == "other version":
        check.__version__ = trunk.__version__ = "9.9.9"
    if os.environ["RANK"] == "1" and fault == "other flags":
        sys.argv += ["--save", str(Path(sys.argv[2]).parent / "x.safetensors")]
    sys.exit(main())
