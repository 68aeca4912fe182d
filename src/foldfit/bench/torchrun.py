"""Plans for several ranks, run as a user would: by torchrun, in processes of their own."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from foldfit.bench.case import Runs
from foldfit.plans import Plan

if TYPE_CHECKING:
    from foldfit.runtime.measure import Measured


def run_on_ranks(plans: Sequence[Plan], runs: Runs) -> "Iterator[Measured | str]":
    """One each, in order, on random inputs; the same processes run all of them. Where they fail, what they said last, and others go on
    with the next plan."""
    left = list(plans)
    while left:
        with tempfile.TemporaryDirectory() as folder:
            for i, plan in enumerate(left):
                plan.save(Path(folder) / f"{i:04}.json")
            errors = Path(folder) / "errors"
            for measured in started(folder, left[0].problem.world, runs, errors):
                left.pop(0)
                yield measured
            said = errors.read_text().splitlines()
        if left:
            told = [line for line in said if "foldfit run:" in line] or said or ["nothing was said"]
            left.pop(0)
            yield told[-1]


def started(folder: str, ranks: int, runs: Runs, errors: Path) -> "Iterator[Measured]":
    """What they measure, as it comes."""
    from foldfit.runtime.measure import Measured

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["-m", "foldfit.bench.ranks", folder, str(runs.repeat), str(runs.warmup), str(runs.budget)]
    with errors.open("w") as file, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True) as process:
        try:
            assert process.stdout
            for line in process.stdout:
                try:
                    yield msgspec.json.decode(line, type=Measured)
                except msgspec.MsgspecError:  # what a library says there
                    continue
        finally:
            process.terminate()  # it ends its ranks
