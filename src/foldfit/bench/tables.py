"""Results as tables: Markdown for people, CSV for programs. The study's figures stand beside ours."""

import csv
import io

from foldfit.bench.runner import Result, Results
from foldfit.bench.study import STUDY, Row, with_auto

MIB = 2**20
HEAD = (
    "part", "n_seq", "n_res", "GPUs", "policy", "limit GiB", "study peak MB", "study activation MB", "study ms", "promised MB",
    "measured MB", "activation MB", "promised ms", "measured ms", "bound within %", "status",
)  # fmt: skip


def cells(row: Row, r: Result) -> tuple[str, ...]:
    def number(x: float, unit: float = 1.0) -> str:
        return f"{x / unit:.0f}" if x else ""

    theirs = (
        ("", "", "")
        if row.policy == "auto"
        else tuple("OOM" if row.peak is None else number(x or 0) for x in (row.peak, row.activation, row.ms))
    )
    ours = [
        number(r.promised_peak, MIB),
        number(r.peak, MIB),
        number(r.activation, MIB),
        number(1e3 * r.promised_seconds),
        number(1e3 * r.seconds),
    ]
    gap = f"{100 * r.gap:.2f}" if r.promised_seconds else ""
    status = f"needs {r.promised_peak / MIB:.0f} MB: OOM" if r.status == "does not fit" else r.note or r.status
    if r.status == "does not fit":
        ours[0] = "OOM"
    return (row.part, str(row.n_seq), str(row.n_res), str(row.gpus), row.policy, f"{r.limit / 2**30:.1f}", *theirs, *ours, gap, status)


def lines(results: Results) -> list[tuple[str, ...]]:
    rows = {row.key: row for row in with_auto(STUDY)}
    return [cells(rows[r.key], r) for r in results.results if r.key in rows]


def markdown(results: Results) -> str:
    out = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    return "\n".join(out + [f"| {' | '.join(line)} |" for line in lines(results)]) + "\n"


def as_csv(results: Results) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEAD)
    writer.writerows(lines(results))
    return text.getvalue()
