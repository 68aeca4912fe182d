"""The study's open questions, asked of the planner: plans on costs measured on an H200, none of them run as a whole.

python benchmarks/questions.py            # asks again: benchmarks/results/questions.json, and docs/questions.md of it
python benchmarks/questions.py --page     # docs/questions.md alone, of the figures that are there
"""

import argparse
import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from foldfit._version import __version__
from foldfit.bench.planned import only
from foldfit.cost.database import KERNELS as GENERATION
from foldfit.cost.database import Costs, find_costs, load_costs
from foldfit.cost.devices import GPUS, Device, find_device
from foldfit.cost.sample import name_of
from foldfit.errors import DoesNotFit
from foldfit.planner.build import chain_of, make_plan
from foldfit.planner.chain import solve
from foldfit.planner.lengths import least
from foldfit.planner.options import OptionTable, option_table
from foldfit.planner.table import Forward, Record, Sub
from foldfit.plans import Plan, write_text
from foldfit.problem import Problem, Stack
from foldfit.stacks import stack_spec

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "questions.json"
MEASURED = ROOT / "src" / "foldfit" / "cost" / "measured" / "H200.json"
COMPILED = ROOT / "benchmarks" / "results" / "compiled_h100.json"
"""Of benchmarks/compiled.py."""
PAGE = ROOT / "docs" / "questions.md"
SHAPES = ((128, 256), (512, 256), (512, 384))
GIB = 2**30
SIZES = (8, 12, 16, 24, 32, 40, 48, 80, 131)
"""GiB; the last is what a card of 141 GB has."""
COMPILED_SIZES = (8, 12, 24, 79)
KERNELS: dict[str, tuple[str, ...]] = {"reference": ("reference",), "and SDPA": ("reference", "sdpa"), "and Triton": ()}
EVERYTHING = 2**50
MSA_ATTENTIONS = ("msa_row_attention_with_pair_bias", "msa_column_attention")


def table_of(shape: tuple[int, int], device: Device, launch: str, kernels: tuple[str, ...] = ()) -> OptionTable:
    """48 Evoformer blocks, a training step, in 16 bits."""
    half = "bf16" if "bf16" in device.peaks else "fp16"
    problem = Problem(
        stacks=(Stack("evoformer", 48, shape[0]),), n_res=shape[1], mode="train", precision=half, parameters=half, dropout=True,  # type: ignore[arg-type]
        launch=launch, device=device.name, device_type="cuda", memory=EVERYTHING,  # type: ignore[arg-type]
    )  # fmt: skip
    return only(option_table(problem, device), kernels)


def within(table: OptionTable, memory: int) -> OptionTable:
    return OptionTable(msgspec.structs.replace(table.problem, memory=memory), table.device, table.stacks)


def figures(plan: Plan) -> dict[str, float]:
    passes = sum(step.startswith(("run", "record")) for step in plan.schedule) / plan.problem.blocks
    gap = plan.bound.gap if plan.bound else 0.0
    return {"peak": plan.promised.peak_bytes, "seconds": plan.promised.seconds, "passes": passes, "gap": gap, "steps": len(plan.schedule)}


def planned(table: OptionTable, memory: int, policy: str = "auto") -> dict[str, float] | None:
    try:
        return figures(make_plan(within(table, memory), policy))
    except DoesNotFit:
        return None


def where(table: OptionTable) -> str:
    """The sub-module that sets the least memory."""
    try:
        make_plan(within(table, 1))
    except DoesNotFit as error:
        return error.where.split()[0]
    raise AssertionError("nothing fits into one byte")


def slicing(table: OptionTable) -> list[dict]:
    """Of each sub-module by its fastest kernel: bytes whole, and in the thinnest slices that cost at most 5 % more time."""
    out = []
    for sub in table.stacks[0].sub_modules:
        keep = [o for o in sub.options if not o.choice.recompute]
        whole = min(keep, key=lambda o: (o.seconds + o.back_seconds, -o.choice.rows))
        whole = max((o for o in keep if o.choice.kernel == whole.choice.kernel), key=lambda o: o.choice.rows)
        time = whole.seconds + whole.back_seconds
        cheap = [o for o in keep if o.choice.kernel == whole.choice.kernel and o.seconds + o.back_seconds <= 1.05 * time]
        thin = min(cheap, key=lambda o: o.choice.rows)
        out.append({
            "sub_module": sub.spec.name, "kernel": whole.choice.kernel, "rows": whole.choice.rows, "seconds": time,
            "inter": max(whole.bytes.inter, whole.bytes.back), "thin_rows": thin.choice.rows,
            "saved": whole.bytes.saved, "thin_inter": max(thin.bytes.inter, thin.bytes.back), "thin_seconds": thin.seconds + thin.back_seconds,
        })  # fmt: skip
    return out


def filling(costs: Costs) -> list[dict]:
    """From the samples themselves: seconds of forward and backward in slices, against whole."""
    found: dict[tuple, dict[int, float]] = {}
    names = {name_of(sub) for sub in stack_spec("evoformer").sub_modules}
    for s in costs.samples:
        if (
            s.sub_module in names
            and s.precision == "bf16"
            and all(lengths in (SHAPES[-1], (SHAPES[-1][1],) * 2) for lengths in s.axes.values())
        ):
            found.setdefault((s.sub_module.split()[0], s.kernel), {})[s.rows] = s.forward + s.backward
    order = [sub.name for sub in stack_spec("evoformer").sub_modules]
    return [
        {"sub_module": name, "kernel": kernel, "rows": max(rows), "ratio": {str(r): t / rows[max(rows)] for r, t in sorted(rows.items())}}
        for (name, kernel), rows in sorted(found.items(), key=lambda each: order.index(each[0][0]))
    ]


def compiled_rows() -> dict[tuple[str, str], dict]:
    """What benchmarks/compiled.py measured side by side: of (sub-module, who)."""
    found = json.loads(COMPILED.read_text())["rows"] if COMPILED.is_file() else []
    return {(r["sub_module"], r["who"]): r for r in found if "both_ms" in r}


def whole(table: OptionTable, kernel: str) -> OptionTable:
    """Each sub-module on all rows at once, by that kernel, kept or recomputed."""
    (stack,) = table.stacks
    subs = []
    for sub in stack.sub_modules:
        of = [o for o in sub.options if o.choice.kernel == kernel]
        rows = max(o.choice.rows for o in of)
        subs.append(replace(sub, options=tuple(o for o in of if o.choice.rows == rows)))
    return replace(table, stacks=(replace(stack, sub_modules=tuple(subs)),))


def by_compiled(sub: Sub, r: dict) -> Sub:
    """Its options as they were measured."""
    forward, back = r["forward_ms"] / 1e3, (r["both_ms"] - r["forward_ms"]) / 1e3
    keep = Record(max(r["inter"], r["saved"]), r["saved"], r["back"], forward, back, "kept")
    again = Record(r["forward"], 0, max(r["inter"], r["back"]), forward, forward + back, "recomputed")
    return replace(sub, forward=(Forward(r["forward"], forward, "run"),), record=(keep, again))


def compiled() -> dict:
    """What torch.compile does to the plan: 48 blocks of sub-modules that run whole, kept or recomputed."""
    table, rows = table_of(SHAPES[-1], find_device("H100"), "graph"), compiled_rows()
    names = [sub.spec.name for sub in table.stacks[0].sub_modules]
    beside = [name for name in names if all((name, who) in rows for who in ("reference", "compiled", "triton"))]
    plans = []
    for who in ("reference", "compiled", "triton"):
        chain = chain_of(whole(table, who if who == "triton" else "reference"))
        ((stage, blocks),) = chain.runs
        if who == "compiled":
            subs = [by_compiled(sub, rows[sub.name, who]) if (sub.name, who) in rows else sub for sub in stage.subs]
            chain = replace(chain, runs=((replace(stage, subs=tuple(subs)), blocks),))
        found: dict[str, dict | None] = {}
        for size in COMPILED_SIZES:
            try:
                solution = solve(chain, size * GIB)
                passes = sum(step.startswith(("run", "record")) for step in solution.schedule) / blocks
                found[str(size)] = {"seconds": solution.seconds, "passes": passes, "gap": solution.gap}
            except DoesNotFit:
                found[str(size)] = None
        plans.append({"kernels": who, "at": found})
    kept = ("forward_ms", "both_ms", "saved", "error", "first_s")
    measured = [
        {"sub_module": n} | {who: {k: rows[n, who][k] for k in kept} for who in ("reference", "compiled", "triton")} for n in beside
    ]
    return {"measured": measured, "plans": plans, "missing": [name for name in names if (name, "compiled") not in rows]}


def ask() -> dict:
    card = find_device("H200")
    assert find_costs(card) is not None, "the shipped costs of the H200"
    tables = {shape: table_of(shape, card, "graph") for shape in SHAPES}
    big = tables[SHAPES[-1]]
    low, high = least(big), figures(make_plan(big))["peak"]
    limits = [round(low * (high / low) ** (i / 11)) for i in range(12)]
    costs = load_costs(MEASURED)
    earlier = "" if costs.kernels == GENERATION else ", kernels of a generation before"
    out: dict[str, Any] = {
        "costs": f"{costs.date}, torch {costs.versions['torch']}{earlier}", "state": sum(big.stacks[0].state.values()),
        "slicing": {name: slicing(table_of(SHAPES[-1], card, "graph", kernels)) for name, kernels in KERNELS.items() if name != "and SDPA"},
        "filling": filling(costs),
        "passes": [{"limit": limit} | found for limit in limits if (found := planned(big, limit))],
        "kernels": [], "keeping": [], "sizes": [], "cards": [],
    }  # fmt: skip
    for name, kernels in KERNELS.items():
        table = table_of(SHAPES[-1], card, "graph", kernels)
        cells = {str(size): planned(table, size * GIB) for size in (4, 12, 80)}
        out["kernels"].append({"kernels": name, "least": least(table), "where": where(table), "at": cells})
        for shape in SHAPES:
            own = table_of(shape, card, "graph", kernels)
            out["keeping"].append({"kernels": name, "shape": shape} | figures(make_plan(own)))
    for shape, table in tables.items():
        for size in SIZES:
            out["sizes"].append(
                {"shape": shape, "GiB": size, "auto": planned(table, size * GIB), "large": planned(table, size * GIB, "large")}
            )
    for card in sorted(GPUS, key=lambda d: (d.memory, d.name)):
        table = table_of(SHAPES[-1], replace(card, costs="modelled"), "eager")
        room = card.memory - card.reserved
        out["cards"].append(
            {"card": card.name, "memory": card.memory, "auto": planned(table, room), "large": planned(table, room, "large")}
        )
    out["compiled"] = compiled()
    return {"benchmark": "questions", "foldfit": __version__, "date": datetime.date.today().isoformat()} | out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="do not ask again")
    if not parser.parse_args().page:
        write_text(RESULTS, json.dumps(ask(), indent=1) + "\n")
    write_text(PAGE, page(json.loads(RESULTS.read_text())))


HEAD = """# The study's open questions

The study ends with questions. Here they are put to the planner, for its largest training step: 48 Evoformer blocks with dropout at
n_seq 512, n_res 384 (other shapes where named), bf16, on an H200. `python benchmarks/questions.py` -> `benchmarks/results/questions.json`
(foldfit {foldfit}, {date}), which every figure of this page is from. **Plans were not run here**: bytes are promises, seconds are
the planner's, from the options measured one by one on an H200 (`src/foldfit/cost/measured/H200.json`, {costs}, CUDA
graphs), or, where it says so, modelled. What whole runs took is in [performance](performance.md).
"""


def cells(*row: object) -> str:
    return f"| {' | '.join(map(str, row))} |"


def grid(head: tuple, rows: list[tuple]) -> str:
    return "\n".join([cells(*head), "|---" * len(head) + "|", *(cells(*row) for row in rows)])


def gib(size: float) -> str:
    return f"{size / GIB:.1f}"


def ms(found: dict | None) -> str:
    return f"{1e3 * found['seconds']:.0f}" if found else "does not fit"


def timed(found: dict | None) -> str:
    return f"{ms(found)} ({found['passes']:.2f})" if found else ms(found)


def percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):.0f} %"


def change(ratio: float) -> str:
    return f"{abs(100 * (ratio - 1)):.0f} % {'more' if ratio > 1 else 'less'}"


def mib(size: float) -> str:
    return f"{size / 2**20:.0f}"


def page(found: dict) -> str:
    parts = [HEAD.format(**found), slicing_part(found), filling_part(found), passes_part(found), kernels_part(found), keeping_part(found)]
    return "\n".join([*parts, sizes_part(found)])


def slicing_part(found: dict) -> str:
    rows = [
        (r["sub_module"], r["kernel"], mib(r["inter"]), mib(r["saved"]), f"{r['thin_rows']} of {r['rows']}", mib(r["thin_inter"]))
        for name in found["slicing"] for r in found["slicing"][name]
    ]  # fmt: skip
    first, last = (sorted(found["slicing"][name], key=lambda r: r["inter"]) for name in ("reference", "and Triton"))
    small, top, fused = first[0], first[-1], last[-1]
    return f"""## Which parts are bound by memory and worth slicing?

All of them: by PyTorch's kernels even {small["sub_module"]}, the least, holds {mib(small["inter"])} MiB while it or its backward runs, and
{top["sub_module"]} {mib(top["inter"])}, where the state that they work on has {mib(found["state"])}. By the fastest kernels the largest is
{fused["sub_module"]} with {mib(fused["inter"])} MiB, of which it saves {mib(fused["saved"])} for its backward. Slices of a run that keeps everything
free only the rest, so that they help the attentions of PyTorch most; with recompute, slice by slice, they help everything. The
last columns are the thinnest slices that cost at most 5 % more time, and what they hold.

{grid(("sub-module", "kernel", "MiB whole", "of it saved", "rows a slice", "MiB in slices"), rows)}
"""


def filling_part(found: dict) -> str:
    parts = (1, 4, 16)

    def ratios(rows: list[dict], part: int) -> list[float]:
        return [t for r in rows for n, t in r["ratio"].items() if round(r["rows"] / int(n)) == part]

    lines = [(r["sub_module"], r["kernel"], *(f"{x:.2f}" for k in parts for x in ratios([r], k)[:1])) for r in found["filling"]]
    attention = [r for r in found["filling"] if r["kernel"] == "reference" and r["sub_module"] in MSA_ATTENTIONS]
    fused = [r for r in found["filling"] if r["kernel"] == "triton"]
    quarter, sixteenth = ratios(fused, 4), ratios(fused, 16)
    return f"""## How large a slice already fills the device?

Of the MSA attentions by PyTorch's kernels a quarter of the rows does ({percent(max(1.0, *ratios(attention, 4)))} more time at most), and a sixteenth nearly
({percent(max(ratios(attention, 16)))}). Faster kernels need larger slices: in 4 of them Triton's take {min(quarter):.2f} to {max(quarter):.2f} times as long, in 16
{min(sixteenth):.1f} to {max(sixteenth):.1f} times. So the planner slices the attentions first, and the triangle multiplications last.
Measured, forward and backward of one sub-module in 1, 4 and 16 slices, against whole:

{grid(("sub-module", "kernel", *(f"1/{k}" if k > 1 else "whole" for k in parts)), lines)}
"""


def passes_part(found: dict) -> str:
    rows = [(gib(r["limit"]), gib(r["peak"]), f"{r['passes']:.2f}", ms(r), f"{100 * r['gap']:.2f}") for r in found["passes"]]
    first, second, last = found["passes"][0], found["passes"][1], found["passes"][-1]
    knee = next(r for r in found["passes"] if r["passes"] < 2)
    less, more = 2 - knee["peak"] / last["peak"], knee["seconds"] / last["seconds"]
    return f"""## What does each further pass of recompute buy?

Passes are forward passes a block, its first one included. The second is the bargain: {gib(knee["limit"])} GiB instead of {gib(last["peak"])}, {percent(less)} less,
for {percent(more)} more time, and part of it for part of that. The third buys {gib(second["peak"])} GiB for {percent(second["seconds"] / knee["seconds"])} more again.
The last GiB costs everything, the thinnest slices too: {gib(first["peak"])} GiB take {first["passes"]:.0f} passes and {first["seconds"] / second["seconds"]:.1f} times the time.

{grid(("limit GiB", "promised GiB", "passes", "ms", "bound within %"), rows)}
"""


def kernels_part(found: dict) -> str:
    sizes = list(found["kernels"][0]["at"])
    rows = [
        (
            r["kernels"],
            gib(r["least"]),
            *(f"{ms(r['at'][s])} ({r['at'][s]['passes']:.2f})" if r["at"][s] else "does not fit" for s in sizes),
        )
        for r in found["kernels"]
    ]
    reference, triton = found["kernels"][0], found["kernels"][-1]
    times = reference["at"]["12"]["seconds"] / triton["at"]["12"]["seconds"]
    before, after = (k["at"]["80"]["passes"] for k in (reference, triton))
    return f"""## What do fused kernels, or torch.compile, do to the plan?

Under 12 GiB the plan is {times:.1f} times as fast with them. They save less for backward, so that at the same limit fewer blocks are
recomputed: {before:.2f} passes become {after:.2f} at 80 GiB. The least memory stays {gib(triton["least"])} GiB: {triton["where"]} sets it, with any
kernels. Milliseconds, and passes a block:

{grid(("kernels", "least GiB", *(f"{s} GiB" for s in sizes)), rows)}

{compiled_part(found["compiled"])}"""


def compiled_part(found: dict) -> str:
    rows, plans = found["measured"], {r["kernels"]: r["at"] for r in found["plans"]}
    total = {who: {k: sum(r[who][k] for r in rows) for k in ("both_ms", "saved", "first_s")} for who in ("reference", "compiled", "triton")}
    times = {who: total["reference"]["both_ms"] / total[who]["both_ms"] for who in total}
    keeps = {who: change(total[who]["saved"] / total["reference"]["saved"]) for who in total}
    faster = {who: plans["reference"]["12"]["seconds"] / plans[who]["12"]["seconds"] for who in plans}
    worst = {who: f"{100 * max(r[who]['error'] for r in rows):.1f} %" for who in total}
    lines = [
        (
            r["sub_module"],
            *(f"{r[who]['forward_ms']:.2f} / {r[who]['both_ms']:.2f}" for who in total),
            *(mib(r[who]["saved"]) for who in total),
        )
        for r in rows
    ]
    names = {"reference": "PyTorch's steps", "compiled": "compiled", "triton": "Triton"}
    planned = [(names[who], *(timed(at[str(size)]) for size in COMPILED_SIZES)) for who, at in plans.items()]
    missing = f" The compiled {', '.join(found['missing'])} were not reached, and stay as they are." if found["missing"] else ""
    return f"""torch.compile leaves the matrix products and the soft-max's logits in memory, and makes one kernel of the steps between them. Of the
{len(rows)} sub-modules below together: {times["compiled"]:.1f} times less time, forward and backward, and {keeps["compiled"]} kept for the backward; by Triton's
kernels {times["triton"]:.1f} times less time, and {keeps["triton"]} kept. Each was run whole on one H100, by PyTorch's steps, by the same compiled and by
Triton, beside each other, as CUDA graphs: `python benchmarks/compiled.py` -> `benchmarks/results/compiled_h100.json`, measured. From
fp64 they are {worst["reference"]}, {worst["compiled"]} and {worst["triton"]} off at most, where a gradient passes a ReLU. Two times of PyTorch's steps,
disturbed in that run, are those of the day before (the file says which).

{grid(("sub-module", "PyTorch: ms forward / with backward", "compiled", "Triton", "PyTorch keeps MiB", "compiled", "Triton"), lines)}

Given to the planner with the costs of an H100, whole sub-modules alone, kept or recomputed: 48 blocks take in 12 GiB {faster["compiled"]:.1f} times less time compiled than by
PyTorch's steps, and {faster["triton"]:.1f} times less by Triton. So compiling moves the whole curve down and hardly to the left: it buys time, not
memory. It takes {total["compiled"]["first_s"] / len(rows):.0f} s a sub-module, for one size and one number of rows, of which slices have many: that is why it is no option
of the table.{missing}

{grid(("kernels", *(f"{size} GiB" for size in COMPILED_SIZES)), planned)}
"""


def keeping_part(found: dict) -> str:
    rows = [(r["kernels"], *r["shape"], gib(r["peak"]), ms(r)) for r in found["keeping"]]
    return f"""## What must a device have for 48 blocks without recompute?

The study says around 5 GB a block. By the kernels that are fastest with no limit, all with one pass a block:

{grid(("kernels", "n_seq", "n_res", "GiB", "ms"), rows)}
"""


def sizes_part(found: dict) -> str:
    by_size = {size: [r for r in found["sizes"] if r["GiB"] == size] for size in SIZES}
    rows = [
        (size, *(f"{ms(r['auto'])} ({r['auto']['passes']:.2f})" if r["auto"] else "does not fit" for r in of))
        for size, of in by_size.items()
    ]
    twelve, whole = (next(r["auto"]["seconds"] for r in by_size[size] if r["shape"] == list(SHAPES[-1])) for size in (12, SIZES[-1]))
    cards = [
        (r["card"], gib(r["memory"]), ms(r["auto"]), f"{r['auto']['passes']:.2f}" if r["auto"] else "", ms(r["large"]))
        for r in found["cards"]
    ]
    return f"""## The same on cards of 8 to 141 GB

A card as fast as an H200, with more or less memory than it has: milliseconds (and passes a block). At (512, 384) 12 GiB cost {percent(twelve / whole)} more time than {SIZES[-1]}:

{grid(("GiB", *(f"{s}, {r}" for s, r in SHAPES)), rows)}

The cards that there are, (512, 384), with all the memory that each has. Kernel by kernel, not as a graph, fp16 where there is no bf16.
These seconds are **modelled**, by shares of the data sheets that were fitted to an H200; `large` is the study's policy, by
PyTorch's kernels.

{grid(("card", "GiB", "auto ms", "passes", "large ms"), cards)}
"""


if __name__ == "__main__":
    main()
