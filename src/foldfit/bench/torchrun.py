"""A plan for several ranks, run as a user would: by torchrun, in processes of its own."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from foldfit.bench.case import Runs
from foldfit.errors import FoldfitError
from foldfit.plans import Plan

if TYPE_CHECKING:
    from foldfit.runtime.measure import Measured


def run_on_ranks(plan: Plan, runs: Runs) -> "Measured":
    """On random inputs. Raises FoldfitError with what the ranks said last."""
    from foldfit.runtime.measure import Measured

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        plan.save(path)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(plan.problem.world)]
        command += ["-m", "foldfit", "run", str(path), "--json"]
        command += ["--repeat", str(runs.repeat), "--warmup", str(runs.warmup), "--budget", str(runs.budget)]
        done = subprocess.run(command, capture_output=True, text=True)
    try:
        return msgspec.json.decode(done.stdout, type=Measured)  # there also where the promise was broken
    except msgspec.MsgspecError:
        said = [line for line in done.stderr.splitlines() if "foldfit run:" in line] or done.stderr.splitlines() or ["nothing was said"]
        raise FoldfitError(said[-1]) from None
