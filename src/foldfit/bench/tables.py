"""Results as tables: Markdown for people, CSV for programs. In the study's, its own figures stand beside ours."""

import csv
import io
from pathlib import Path

from foldfit.bench.results import NAMES, Result, Results
from foldfit.bench.study import Row, row_of
from foldfit.plans import write_text

MIB = 2**20
STUDY_HEAD = (
    "part", "n_seq", "n_res", "GPUs", "policy", "limit GiB", "study peak MB", "study activation MB", "study ms", "promised MB",
    "measured MB", "promised activation MB", "activation MB", "promised ms", "measured ms", "exposed ms", "bound within %", "status",
)  # fmt: skip
HEAD = (
    "trunk", "n_res", "run", "ranks", "policy", "kernels", "limit GiB", "promised MiB", "measured MiB", "ratio", "activation MiB",
    "promised ms", "ms", "spread ms", "exposed ms", "runs", "bound within %", "status",
)  # fmt: skip


def number(x: float, unit: float = 1.0, digits: int = 0) -> str:
    return f"{x / unit:.{digits}f}" if x else ""


def refused(r: Result) -> bool:
    """Whether it does not fit by the planner's word."""
    return r.promised_peak > r.problem.memory


def status(r: Result, unit: str) -> str:
    if refused(r):
        return f"needs {r.promised_peak / MIB:.0f} {unit}: OOM" + (", by the run too" if r.status == "ran out of memory" else "")
    if r.status == "measured":
        return f"measured, median of {r.repeat}" if r.repeat else "measured in one run, under the meter"
    return r.note or r.status


def study_cells(row: Row, r: Result) -> tuple[str, ...]:
    figures = (row.peak, row.activation, row.ms)
    theirs = ("", "", "") if row.policy == "auto" else tuple("OOM" if row.peak is None else number(x or 0) for x in figures)
    ours = [number(r.promised_peak, MIB), number(r.peak, MIB), number(r.promised_activation, MIB), number(r.activation, MIB)]
    exposed = number(1e3 * (r.exposed if r.seconds else r.promised_exposed))
    ours += [number(1e3 * r.promised_seconds), number(1e3 * r.seconds), exposed]
    if refused(r):
        ours[0] = "OOM"
    limit = number(r.problem.memory, 2**30, 1)
    gap = f"{100 * r.gap:.2f}" if r.promised_seconds else ""
    stack, small = r.problem.stacks[0], (r.problem.stacks[0].rows, r.problem.n_res) != (row.n_seq, row.n_res)
    part = f"{row.part} {row.n_seq} {row.n_res} in small" if small else row.part
    policy = row.policy + (" (graph)" if r.problem.launch == "graph" else "")
    return (part, str(stack.rows), str(r.problem.n_res), str(row.gpus), policy, limit, *theirs, *ours, gap, status(r, "MB"))


def cells(r: Result) -> tuple[str, ...]:
    p = r.problem
    trunk = " + ".join(f"{s.blocks} x {s.name}" + (f" ({s.rows} rows)" if s.rows else "") for s in p.stacks)
    by = f"{r.policy} ({r.solver})" if r.policy == "auto" and p.mode == "train" else r.policy
    return (
        trunk, str(p.n_res), f"{p.mode}, {p.precision}", str(p.world) + (f" ({p.axial} a sample)" if p.axial < p.world else ""), by,
        " ".join(r.kernels) or "all", number(p.memory, 2**30, 2),
        number(r.promised_peak, MIB, 1) if not refused(r) else "OOM", number(r.peak, MIB, 1),
        number(r.peak / r.promised_peak, 1, 4) if r.peak else "", number(r.activation, MIB, 1), number(1e3 * r.promised_seconds, 1, 2),
        number(1e3 * r.seconds, 1, 2), number(1e3 * r.spread, 1, 2),
        number(1e3 * (r.exposed if r.seconds else r.promised_exposed), 1, 2), str(r.repeat or ""),
        f"{100 * r.gap:.2f}" if r.promised_seconds else "", status(r, "MiB"),
    )  # fmt: skip


def table(results: Results) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Its head and its lines."""
    if results.experiment == "study":
        rows = [(*found, r) for r in results.results if (found := row_of(r.key))]
        return STUDY_HEAD, [study_cells(row, r) for _, row, r in sorted(rows, key=lambda each: each[0])]
    return HEAD, [cells(r) for r in results.results]


def markdown(results: Results) -> str:
    head, lines = table(results)
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def as_csv(results: Results) -> str:
    head, lines = table(results)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *lines])
    return text.getvalue()


def save(results: Results, folder: Path) -> None:
    """The files of an experiment, each whole at every moment."""
    for name, text in zip(NAMES[results.experiment], (results.dumps(), as_csv(results), markdown(results)), strict=True):
        write_text(folder / name, text)
