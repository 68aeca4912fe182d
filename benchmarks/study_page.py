"""docs/study.md of the result files of `foldfit bench study`: measured on H100s and on an H200, and predicted for the study's own card.

python benchmarks/study_page.py
"""

from pathlib import Path

from foldfit.bench.results import Result, Results, read_results
from foldfit.bench.study import Row, row_of
from foldfit.plans import write_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "study.md"
RESULTS = ROOT / "benchmarks" / "results"
MEASURED, MORE, PREDICTED = "study_h100", "study_h200", "study_v100_predicted"
MIB = 2**20

HEAD = """# The study's tables

`foldfit bench study` makes every table of the Experiment section of the study that foldfit grew from, with the study's figures
beside ours: on a machine with the device it runs the rows that fit, elsewhere it predicts them, and says so. `--scale tiny` does it in
seconds on a CPU, in sizes that its rows name. `-o DIR`, `--repeat`, `--warmup`, `--budget`, `--predict`, `--limits`, `--baseline` and
`--force` are those of [bench](bench.md). `auto` stands beside every experiment at a V100-32GB's memory and at the card's own, a
training step as a CUDA graph. Activation memory is the study's: what is alive when forward ends, beyond what was alive before.

Rows for several GPUs run under torchrun, which it starts itself; where there are fewer they are predicted. `--gpus 2,4` makes those rows
alone, so that one folder can be filled on several machines with the same card. Plans can be made before, on any machine:

```
foldfit bench study --device H100 --limits V100-32GB,74GiB -o DIR                       # plans, anywhere
foldfit bench study --device cuda --limits V100-32GB,74GiB --gpus 1 --budget 12 --repeat 3 --warmup 0 -o DIR    # on one: training
foldfit bench study --device cuda --limits V100-32GB,74GiB --gpus 1 --budget 60 --repeat 1 --warmup 0 -o DIR    # and what takes longer
foldfit bench study --device cuda --limits V100-32GB,74GiB --gpus 2 --budget 40 --repeat 2 --warmup 0 -o DIR    # on two of them
```

A row whose runs took longer than its budget allows says `measured in one run, under the meter`: its seconds are those of that run, kernels
that it compiled included. The questions that the study ends with have [answers](questions.md).

| the study's policy | as a plan of ours |
|---|---|
| `PASSingle`, small | `small`: each sub-module recomputed from its own input |
| `PASSingle`, large | `large`: each block recomputed from its input |
| `PASExtraSingle` | `chunk`: slices of 4 rows, recomputed one by one in backward |
| `PASSingleInference`, direct / chunk | `none` / `chunk` |
| `PASDAP`, `PASDAPInference`: axial, axial + chunk | the same policies with `--gpus N`: axial sharding over GPUs |
"""

OWN_CARD = """
## Its own card, predicted

`foldfit bench study --device V100-32GB -o benchmarks/results/study_v100_predicted` (without its plans): nothing below is measured by us.
"promised" is what our planner says of a card that is not here, with modelled seconds; the study measured its figures on V100s. Of its own
training policies we promise {low:.2f} to {high:.2f} of the memory that it measured on one GPU, and {low2:.2f} to {high2:.2f} on two. Where
its chunks are large and ours are 4 rows, ours take less memory and more time. `auto` under the same 31.2 GiB is predicted to take
{fast:.2f} to {slow:.2f} of the time of `large` as planned by us, with PyTorch's SDPA among its kernels.

"""

Pair = tuple[Row, Result]


def rows(results: Results) -> list[Pair]:
    """In the study's order."""
    found = [(*at, r) for r in results.results if (at := row_of(r.key))]
    return [(row, r) for _, row, r in sorted(found, key=lambda each: each[0])]


def line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def grid(head: tuple[str, ...], lines: list[tuple]) -> str:
    return "\n".join([line(*head), "|---" * len(head) + "|", *(line(*cells) for cells in lines)]) + "\n"


def mb(size: float) -> str:
    return f"{size / MIB:.0f}" if size else ""


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:.0f}" if seconds else ""


def what(row: Row, r: Result) -> tuple:
    limit = f" at {r.problem.memory / 2**30:.1f}" if row.policy == "auto" else ""
    graph = ", graph" if r.problem.launch == "graph" else ""
    return row.part, f"{row.n_seq}, {row.n_res}", row.gpus, row.policy + limit + graph


def theirs(row: Row, figure: float | None) -> str:
    if row.policy == "auto":
        return ""
    return "OOM" if row.peak is None else f"{figure:.0f}" if figure else ""


def refused(r: Result) -> bool:
    return r.promised_peak > r.problem.memory


def predicted_part(pairs: list[Pair]) -> str:
    def ratios(gpus: int) -> list[float]:
        of = [(row, r) for row, r in pairs if row.mode == "train" and row.gpus == gpus and row.policy in ("small", "large")]
        return [r.promised_peak / MIB / row.peak for row, r in of if row.peak]

    large = {(row.n_seq, row.n_res, row.gpus): r.promised_seconds for row, r in pairs if row.policy == "large"}
    auto = [
        r.promised_seconds / large[row.n_seq, row.n_res, row.gpus]
        for row, r in pairs
        if row.policy == "auto" and (row.n_seq, row.n_res, row.gpus) in large
    ]
    text = OWN_CARD.format(
        low=min(ratios(1)), high=max(ratios(1)), low2=min(ratios(2)), high2=max(ratios(2)), fast=min(auto), slow=max(auto)
    )
    head = (
        "part", "n_seq, n_res", "GPUs", "policy", "study MB", "promised MB", "study activation MB", "promised", "study ms", "promised ms",
        "exposed ms",
    )  # fmt: skip
    return text + grid(head, [(
        *what(row, r), theirs(row, row.peak), f"OOM: needs {mb(r.promised_peak)}" if refused(r) else mb(r.promised_peak),
        theirs(row, row.activation), mb(r.promised_activation), theirs(row, row.ms), ms(r.promised_seconds), ms(r.promised_exposed),
    ) for row, r in pairs])  # fmt: skip


def excess(broken: Result) -> str:
    return f"broken: {broken.key}, by {(broken.peak - broken.promised_peak) / 1024:.0f} KiB"


def measured_part(folder: str) -> str:
    """All rows of the card on which most were measured; of another one those that were."""
    results = read_results(RESULTS / folder)
    pairs = rows(results)
    ran = [(row, r) for row, r in pairs if r.peak]
    ratio = [r.peak / r.promised_peak for _, r in ran]
    broken = [r for r in results.results if r.status == "promise broken"]
    said = "; ".join(excess(r) for r in broken) if broken else "none broken"
    ours = {(row.n_seq, row.n_res): r for row, r in ran if row.policy == "auto" and row.gpus == 1 and r.problem.memory < 2**35}
    beside = [(row.ms / 1e3 / ours[row.n_seq, row.n_res].seconds) for row, _ in pairs
              if row.gpus == 1 and row.policy in ("large", "chunk") and row.ms and (row.n_seq, row.n_res) in ours]  # fmt: skip
    faster = ""
    if beside:
        times = f"{min(beside):.0f} to {max(beside):.0f} times"
        faster = f"On one GPU `auto` within the study's memory, on a newer card by newer kernels, is {times} as fast as the study."
    text = f"""
## Measured on an {results.device}

`benchmarks/results/{folder}/study.json`: {results.machine}, {results.date}, torch {results.versions["torch"]}. Of {len(pairs)} rows
{len(ran)} ran. Peak, measured / promised: {min(ratio):.4f} to {max(ratio):.4f}, {said}. {faster}
MB are 2^20 bytes; "study" is what the study measured on V100s; the activation of a graph is its promise alone. Eager rows of small sizes
take what the host needs to launch their kernels.

"""
    head = (
        "part", "n_seq, n_res", "GPUs", "policy", "study MB", "promised MB", "MB", "study activation MB", "promised", "measured",
        "study ms", "promised ms", "ms", "exposed ms", "",
    )  # fmt: skip
    return text + grid(head, [(
        *what(row, r), theirs(row, row.peak), f"OOM: needs {mb(r.promised_peak)}" if refused(r) else mb(r.promised_peak), mb(r.peak),
        theirs(row, row.activation), mb(r.promised_activation), mb(r.activation), theirs(row, row.ms), ms(r.promised_seconds),
        ms(r.seconds), ms(r.exposed if r.seconds else r.promised_exposed), status(r),
    ) for row, r in (pairs if folder == MEASURED else ran)])  # fmt: skip


def status(r: Result) -> str:
    if refused(r):
        return "by the run too" if r.status == "ran out of memory" else "by the planner's word"
    if r.status == "measured":
        return f"median of {r.repeat}" if r.repeat else "one run, metered"
    return r.note or r.status


def page() -> str:
    return HEAD + measured_part(MEASURED) + measured_part(MORE) + predicted_part(rows(read_results(RESULTS / PREDICTED)))


if __name__ == "__main__":
    write_text(PAGE, page())
