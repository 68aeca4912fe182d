"""Plans the rows of an experiment, runs those that fit where the device is here, and keeps what it found after each."""

import datetime
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from foldfit._version import __version__
from foldfit.bench.study import Row, Scale, problem_of, with_auto
from foldfit.cost.devices import Device
from foldfit.errors import BadInput, DoesNotFit, NotSupported
from foldfit.planner.build import make_plan
from foldfit.planner.options import option_table
from foldfit.plans import Plan, write_text

SCHEMA = 1
Status = Literal["measured", "predicted", "does not fit", "not planned"]


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row: bytes and seconds; what was not measured, or does not fit, is 0."""

    key: str
    limit: int
    status: Status
    note: str = ""
    promised_peak: int = 0
    promised_seconds: float = 0.0
    gap: float = 0.0
    peak: int = 0
    activation: int = 0
    seconds: float = 0.0


class Results(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An experiment's file."""

    schema: int = SCHEMA
    experiment: str
    scale: str
    device: str
    versions: dict[str, str]
    date: str
    results: tuple[Result, ...] = ()

    def save(self, path: str | os.PathLike[str]) -> None:
        write_text(path, msgspec.json.format(msgspec.json.encode(self), indent=1).decode() + "\n")


def read_results(path: Path) -> Results:
    """Raises BadInput for a file that is none, NotSupported for another schema."""
    try:
        data = path.read_bytes()
        head = msgspec.json.decode(data)
        if isinstance(head, dict) and head.get("schema", SCHEMA) != SCHEMA:
            raise NotSupported(f"{path} has schema {head['schema']!r}, this foldfit reads {SCHEMA}: give another -o")
        return msgspec.json.decode(data, type=Results)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise BadInput(f"{path} is no result of foldfit bench: {error}; give another -o") from None


def jobs(rows: list[Row], limits: list[int]) -> list[tuple[Row, int]]:
    """The study's policies at the largest limit, ours at each."""
    return [(row, limit) for row in with_auto(rows) for limit in (sorted(limits) if row.policy == "auto" else [max(limits)])]


def bench(
    rows: list[Row], scale: Scale, device: Device, here: bool, limits: list[int], versions: dict[str, str], path: Path | None,
    on_row: Callable[[str], None] | None = None,
) -> Results:  # fmt: skip
    """Every row planned; run where the device is `here`. Rows that `path` has already, from the same device, scale and
    versions, are taken from there. Raises BadInput for a file of another experiment."""
    wanted = {"foldfit": __version__, **versions}
    fresh = Results(experiment="study", scale=scale, device=device.name, versions=wanted, date=datetime.date.today().isoformat())
    before = read_results(path) if path and path.exists() else fresh
    if (before.experiment, before.scale, before.device, before.versions) != (fresh.experiment, scale, device.name, wanted):
        raise BadInput(f"{path} is of {before.device}, scale {before.scale}, {before.versions}: give another -o, or --force")
    done = {(r.key, r.limit): r for r in before.results}
    for row, limit in jobs(rows, limits):
        if (row.key, limit) in done:
            continue
        if on_row:
            on_row(row.key)
        done[row.key, limit] = one(row, scale, device, here, limit)
        if path:
            msgspec.structs.replace(fresh, results=tuple(done.values())).save(path)
    return msgspec.structs.replace(fresh, results=tuple(done.values()))


def one(row: Row, scale: Scale, device: Device, here: bool, limit: int) -> Result:
    if row.gpus > 1:
        return Result(row.key, limit, "not planned", "several GPUs are to come")
    try:
        plan = make_plan(
            option_table(problem_of(row, scale, device.name, "cpu" if device.name == "cpu" else "cuda", limit), device), row.policy
        )
    except DoesNotFit as error:
        return Result(row.key, limit, "does not fit", promised_peak=error.need)
    gap = plan.bound.gap if plan.bound else 0.0
    predicted = Result(row.key, limit, "predicted", "", plan.promised.peak_bytes, plan.promised.seconds, gap)
    if not here:
        return predicted
    peak, activation, seconds = run(plan)
    return msgspec.structs.replace(predicted, status="measured", peak=peak, activation=activation, seconds=seconds)


def run(plan: Plan) -> tuple[int, int, float]:
    """Peak and activation bytes, seconds."""
    from foldfit.runtime.job import job_of
    from foldfit.runtime.measure import measure

    job = job_of(plan)
    measured = measure(job.model, job.inputs, plan, repeat=1).check()
    del job
    gc.collect()
    return measured.peak_bytes, measured.activation_bytes, measured.seconds
