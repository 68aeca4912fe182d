"""Plans for several ranks, run one after the other by the processes that torchrun started:
`python -m foldfit.bench.ranks FOLDER REPEAT WARMUP BUDGET` prints a line of JSON, a `Measured`, for each plan in the folder."""

import sys
from pathlib import Path

import msgspec

from foldfit.errors import FoldfitError
from foldfit.plans import Plan
from foldfit.runtime.job import job_of
from foldfit.runtime.launch import joined, worst
from foldfit.runtime.measure import measure
from foldfit.runtime.meter import release_leftovers


def main(folder: str, repeat: str, warmup: str, budget: str) -> None:
    """All plans are for as many ranks. What goes wrong in one ends the ranks: what they were at is not known any more."""
    plans = [Plan.load(path) for path in sorted(Path(folder).glob("*.json"))]
    with joined(plans[0].problem) as ranks:
        for plan in plans:
            job = job_of(plan, ranks=ranks)
            measured = worst(measure(
                job.model, job.inputs, plan, repeat=int(repeat), warmup=int(warmup), budget=float(budget), optimizer=job.optimizer
            ))  # fmt: skip
            if ranks.is_first:
                print(msgspec.json.encode(measured).decode(), flush=True)
            del job
            release_leftovers()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FoldfitError as error:
        sys.exit(f"foldfit run: {error}")
