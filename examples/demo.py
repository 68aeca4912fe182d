"""The demonstration of `make demo`: a real alignment, a full-size Evoformer, limits that an unplanned run would break.

Plans and runs 48 blocks on 128 rows of the alignment for inference, and a training step of 2 blocks under three limits;
writes plan.json, measured.json and a picture of memory over time for each into out/demo/, and report.html over all of them,
with the study's tables in small.
"""

import os
import sys
import time
from pathlib import Path

import msgspec

from foldfit.bench import study
from foldfit.bench.runner import bench, header
from foldfit.cli.gather import run_of, sheet_of
from foldfit.cost.devices import find_device
from foldfit.errors import DoesNotFit
from foldfit.inputs.a3m import read_a3m
from foldfit.planner.api import plan_problem
from foldfit.plans import Plan, write_text
from foldfit.problem import Problem, Stack
from foldfit.report.html import render
from foldfit.report.memory import memory_picture
from foldfit.units import format_bytes, format_seconds

HERE = Path(__file__).parent
ALIGNMENT = HERE / "6kwc.a3m"
OUT = HERE.parent / "out" / "demo"
N_SEQ = 128


def problem(mode: str, blocks: int, n_res: int, memory: int) -> Problem:
    return Problem(stacks=(Stack("evoformer", blocks, N_SEQ),), n_res=n_res, mode=mode, dropout=mode == "train", memory=memory)  # type: ignore[arg-type]


def least(mode: str, blocks: int, n_res: int) -> int:
    """Bytes that the thriftiest plan needs: planned for 1 byte, it is what the refusal says."""
    try:
        plan_problem(problem(mode, blocks, n_res, 1))
    except DoesNotFit as error:
        return error.need
    raise AssertionError("nothing fits into one byte")


def run(name: str, plan: Plan) -> dict:
    """Runs a plan on the alignment and keeps plan, measurement and picture."""
    from foldfit.runtime.job import job_of
    from foldfit.runtime.measure import measure

    job = job_of(plan, str(ALIGNMENT))
    measured = measure(job.model, job.inputs, plan, repeat=0).check()
    folder = OUT / name
    plan.save(folder / "plan.json")
    built = msgspec.to_builtins(measured)
    write_text(folder / "measured.json", msgspec.json.format(msgspec.json.encode(built), indent=1).decode() + "\n")
    memory_picture(plan, built, folder / "memory.svg")
    return built


def main() -> None:
    n_res = read_a3m(ALIGNMENT).rows.shape[1]
    print(f"6kwc: {n_res} residues; 48 Evoformer blocks, {N_SEQ} rows, fp32, on this machine's processor; parameters are random\n")
    whole = plan_problem(problem("infer", 48, n_res, 2**40), policy="none")
    train = [plan_problem(problem("train", 2, n_res, 2**40), policy="none").promised.peak_bytes, least("train", 2, n_res)]
    inference = (whole.promised.peak_bytes + 4 * least("infer", 48, n_res)) // 5
    jobs = [("inference", "infer", 48, inference)]
    jobs += [
        ("train-roomy", "train", 2, train[0]),
        ("train-tight", "train", 2, (train[0] + 7 * train[1]) // 8),
        ("train-nearly-impossible", "train", 2, int(1.02 * train[1])),
    ]
    print(f"unplanned, the inference would take {format_bytes(whole.promised.peak_bytes)}, the training step {format_bytes(train[0])}")
    print(f"\n{'run':26}{'limit':>12}{'promised':>12}{'measured':>12}{'ratio':>8}{'modelled':>11}{'took':>9}{'gap':>9}")
    reported = []
    for name, mode, blocks, limit in jobs:
        start = time.perf_counter()
        plan = plan_problem(problem(mode, blocks, n_res, limit))
        if sys.stderr.isatty():
            print(f"planned {name} in {time.perf_counter() - start:.1f} s; running ...", file=sys.stderr)
        m = run(name, plan)
        reported.append(run_of(name, plan, m))
        gap = f"{100 * plan.bound.gap:.2f} %" if plan.bound else ""
        promised = plan.promised
        print(
            f"{name:26}{format_bytes(limit):>12}{format_bytes(promised.peak_bytes):>12}{format_bytes(m['peak_bytes']):>12}"
            f"{m['peak_bytes'] / promised.peak_bytes:>8.3f}{format_seconds(promised.seconds):>11}"
            f"{format_seconds(m['seconds']):>9}{gap:>9}",
            flush=True,
        )
    print("\nthe study's tables in small ...", flush=True)
    cpu = find_device("cpu")
    cases = study.cases("tiny", cpu.name, {"auto": cpu.memory})
    tables = bench(cases, header("study", "tiny", cpu, here=True), cpu, here=True)
    write_text(OUT / "report.html", render(reported, [sheet_of("the study's tables", tables)]))
    print(f"\nplans, measurements, pictures and the report of all of it, report.html, are in {os.path.relpath(OUT)}")


if __name__ == "__main__":
    main()
