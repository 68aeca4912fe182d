"""One sample on several GPUs of a host beside one GPU: promised and measured, in one call of at most 8 minutes.

    python benchmarks/ranks.py --out FOLDER [--device cuda|cpu] [--gpus 1 2 4] [--minutes 8]

Collectives first (`foldfit profile --gpus N`) where the database has none between so many, so that plans stand on them; then every
row on each number of GPUs, by torchrun, in the order of the table below, the most wanted first. A row that fails says so and the others
go on, in new processes where need be; what time does not suffice for is `skipped`. FOLDER gets ranks.json (all rows), costs.json (the
database with the collectives) and log.txt. Kernels of bf16 are compiled before all else, in at most a quarter of the time: on a machine
that has never run them that takes minutes.

Efficiency: t1 / (N tN) of the same row. `exposed`: seconds between begin and end of the collectives that the computation waits for.
Peaks are compared under the policies that do not fill the limit: large, chunk. `check`: outputs and gradients, fp32, against
one rank's.
"""

import argparse
import contextlib
import datetime
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from foldfit.cost.collectives import are_measured
from foldfit.cost.database import costs_file, load_costs
from foldfit.cost.devices import Device, find_device
from foldfit.errors import DoesNotFit, FoldfitError
from foldfit.planner.build import make_plan
from foldfit.planner.lengths import longest_n_res
from foldfit.planner.options import option_table
from foldfit.planner.policies import BlockChoice
from foldfit.plans import Plan
from foldfit.problem import Problem, Stack


@dataclass(frozen=True)
class Row:
    """`limit`: bytes a GPU. `policy`: also `gathered`, auto with what is shared whole, `relaid`, auto without exchanges of channels, and
    `pieces`, all that can. `what`: "run", "check", or "longest": the longest n_res at that limit, one block of it run once."""

    mode: str
    precision: str
    n_seq: int
    n_res: int
    blocks: int = 48
    limit: float = 24e9
    launch: str = "eager"
    policy: str = "auto"
    what: str = "run"
    repeat: int = 3


ROWS = (
    Row("train", "bf16", 512, 384, launch="graph"),
    Row("infer", "bf16", 128, 2048),
    Row("infer", "bf16", 512, 2048),
    Row("train", "bf16", 512, 256, launch="graph"),
    Row("train", "bf16", 128, 256, launch="graph"),
    Row("infer", "bf16", 128, 2048, limit=16e9, what="longest"),
    Row("train", "bf16", 512, 384, launch="graph", policy="large"),
    Row("infer", "bf16", 128, 2048, 2, policy="chunk", repeat=1),
    Row("train", "fp32", 24, 50, 2, what="check"),
    Row("train", "fp32", 24, 50, 2, policy="pieces", what="check"),
    Row("train", "fp32", 24, 50, 2, launch="graph", what="check"),
    Row("infer", "tf32", 128, 2048, limit=48e9, repeat=1),
    Row("train", "tf32", 512, 384, 48, 48e9, "graph"),
    Row("train", "bf16", 512, 384),
    Row("infer", "bf16", 128, 2048, policy="gathered"),
    Row("infer", "tf32", 512, 2048, limit=48e9, repeat=1),
    Row("infer", "fp32", 128, 2048, limit=48e9, repeat=1),
    Row("train", "tf32", 512, 256, 48, 48e9, "graph"),
    Row("train", "tf32", 128, 256, 48, 48e9, "graph"),
    Row("train", "bf16", 128, 256, launch="graph", policy="small"),
    Row("train", "bf16", 128, 256, launch="graph", policy="large"),
    Row("train", "bf16", 128, 256, 4, launch="graph", policy="chunk"),
    Row("infer", "bf16", 128, 2048, policy="relaid"),
    Row("infer", "bf16", 512, 2048, policy="relaid"),
    Row("infer", "tf32", 128, 2048, limit=48e9, policy="relaid", repeat=1),
)
SMALL = (
    Row("train", "fp32", 8, 14, 1, what="check"),
    Row("train", "fp32", 8, 14, 1, policy="pieces", what="check"),
    Row("train", "fp32", 16, 24, 2, 1e9),
    Row("infer", "fp32", 16, 24, 2, 1e9, "eager", "chunk"),
    Row("infer", "fp32", 16, 24, 2, 1e9, "eager", "gathered"),
    Row("infer", "fp32", 16, 24, 1, 2.5e7, "eager", what="longest"),
    Row("infer", "fp32", 16, 24, 2, 1e9, "eager", "relaid"),
)
"""For a machine without GPUs: whether the script runs."""


def rows_of(args: argparse.Namespace) -> list[tuple[int, Row]]:
    """What is asked for, by number."""
    rows = list(enumerate(SMALL if args.device == "cpu" else ROWS))
    return [rows[i] for i in args.only] if args.only else rows


def device_of(name: str, costs: str) -> Device:
    if name == "cuda":
        from foldfit.profile.here import cuda_device

        return replace(cuda_device(), costs=costs)
    return replace(find_device(name), costs=costs)


def problem_of(row: Row, device: Device, world: int) -> Problem:
    return Problem(
        stacks=(Stack("evoformer", row.blocks, row.n_seq),), n_res=row.n_res, mode=row.mode, precision=row.precision,
        parameters={"tf32": "fp32"}.get(row.precision, row.precision), dropout=row.mode == "train" and row.what == "run",
        memory=int(row.limit), launch=row.launch, device=device.name, device_type="cpu" if device.name == "cpu" else "cuda",
        world=world, axial=world,
    )  # fmt: skip


def pieces(table) -> list[BlockChoice]:
    """All that can come in pieces of a few rows does, in several slices, and everything is recomputed."""
    chosen = []
    for sub in table.stacks[0].sub_modules:
        some = [o for o in sub.options if o.choice.recompute and o.choice.kernel == "reference"]
        some = [o for o in some if o.choice.piece_rows] or some
        chosen.append(min(some, key=lambda o: (o.choice.piece_rows, abs(o.choice.rows - 5))))
    return [BlockChoice(tuple(chosen))]


def plan_of(problem: Problem, device: Device, policy: str) -> Plan:
    table = option_table(problem, device)
    if policy in WITHOUT:
        table = replace(table.with_stacks(lambda stack: without(stack, WITHOUT[policy])), loose=None)
    names = {"pieces": "benchmarks.ranks:pieces"} | dict.fromkeys(WITHOUT, "auto")
    return make_plan(table, names.get(policy, policy))


WITHOUT = {"gathered": ("piece_rows", "channels"), "relaid": ("channels",)}
"""Policies that are `auto` without options that have one of these."""


def without(stack, fields: tuple[str, ...]):
    """A stack's options that have none of these."""
    subs = (replace(s, options=tuple(o for o in s.options if not any(getattr(o.choice, f) for f in fields))) for s in stack.sub_modules)
    return replace(stack, sub_modules=tuple(subs))


def run(row: Row, device: Device, ranks) -> dict:
    from foldfit.runtime.job import job_of
    from foldfit.runtime.launch import worst
    from foldfit.runtime.measure import measure

    problem, out = problem_of(row, device, ranks.size), {}
    if row.what == "longest":
        longest = longest_n_res(problem, device)
        out = {"longest_n_res": longest}
        problem = msgspec.structs.replace(problem, n_res=longest, stacks=(Stack("evoformer", 1, row.n_seq),))
    plan = plan_of(problem, device, row.policy)
    job = job_of(plan, ranks=ranks)
    timed = 0 if row.what == "longest" else row.repeat
    m = worst(measure(job.model, job.inputs, plan, repeat=timed, warmup=int(timed > 1)))
    in_pieces = sum(c.piece_rows > 0 for chosen in plan.choices.values() for c in chosen)
    return out | {
        "promised_peak": m.promised_peak_bytes, "peak": m.peak_bytes, "rank_peaks": m.rank_peaks, "promised_seconds": m.promised_seconds,
        "seconds": m.seconds, "promised_exposed": m.promised_exposed, "exposed": m.exposed, "costs": plan.costs, "in_pieces": in_pieces,
        "kept": m.kept,
    }  # fmt: skip


def check(row: Row, device: Device, ranks) -> dict:
    """The largest error of outputs and gradients, relative to the largest gradient where its own is small."""
    import torch

    from foldfit.runtime.ranks import ALONE
    from foldfit.runtime.shards import shard, unshard
    from foldfit.runtime.trunk import Trunk

    def step(over) -> dict:
        torch.manual_seed(0)
        problem = problem_of(row, device, over.size)
        plan = plan_of(problem, device, row.policy)
        model = Trunk(*((s.name, s.blocks, s.widths) for s in problem.stacks)).to(problem.device_type).over(over.group)
        generator = torch.Generator().manual_seed(1)
        shapes = {"m": (row.n_seq, row.n_res, 256), "z": (row.n_res, row.n_res, 128)}
        state = {k: torch.randn(s, generator=generator).to(problem.device_type).requires_grad_() for k, s in shapes.items()}
        masks = {k: (torch.rand(s[:-1], generator=generator) > 0.2).float().to(problem.device_type) for k, s in shapes.items()}
        parts = {k: shard(x, over.group, dim=0) for k, x in state.items()} if over.size > 1 else state
        out = model.run(parts, masks, plan)
        out = {k: unshard(x, over.group, dim=0) for k, x in out.items()} if over.size > 1 else out
        sum(x.square().mean() for x in out.values()).backward()
        found = {**out, **{f"d {k}": x.grad for k, x in state.items()}, **{k: p.grad for k, p in model.named_parameters()}}
        # A soft-max does not see what is added to all its logits: this gradient is zero but for rounding.
        return {k: x.detach().double() for k, x in found.items() if not k.endswith("bias_norm_offset")}

    one, several = step(ALONE), step(ranks)
    scale = max(float(x.norm()) for k, x in one.items() if k not in ("m", "z"))
    errors = {k: float((x - several[k]).norm() / (x.norm() + 1e-3 * scale)) for k, x in one.items()}
    worst = max(errors, key=errors.__getitem__)
    return {"error": None, "largest_error": errors[worst], "largest_error_of": worst, "of": len(errors)}


def work(args: argparse.Namespace) -> None:
    """One process of torchrun: what is asked for but the first `--skip`, each a line of `--rows`, written by the first rank."""
    import torch.distributed as dist

    from foldfit.runtime import launch
    from foldfit.runtime.captured import CAPTURED
    from foldfit.runtime.meter import release_leftovers

    launch.TIMEOUT = datetime.timedelta(seconds=100)
    device, world = device_of(args.device, args.costs), int(os.environ.get("WORLD_SIZE", 1))
    rows = rows_of(args)[args.skip :]
    with launch.joined(problem_of(rows[0][1], device, world)) as ranks:
        for i, row in rows:
            late = [time.time() > args.deadline]
            if world > 1:
                dist.broadcast_object_list(late)
            found, begin, fatal = vars(row) | {"ranks": world}, time.perf_counter(), False
            try:
                found |= {"skipped": "out of time"} if late[0] else (check if row.what == "check" else run)(row, device, ranks)
            except DoesNotFit as error:
                found |= {"does_not_fit": error.need}
            except Exception as error:
                found |= {"error": f"{type(error).__name__}: {error}".split("\n")[0][:300]}
                fatal = not isinstance(error, FoldfitError)
            found["row"], found["took"] = i, round(time.perf_counter() - begin, 1)
            if ranks.is_first:
                with open(args.rows, "a") as f:
                    f.write(json.dumps(found) + "\n")
            if fatal:  # who knows what state the device is in
                print(f"rank {ranks.rank}, row {i}: {found['error']}", file=sys.stderr, flush=True)
                os._exit(9)
            CAPTURED.clear()
            release_leftovers()


class Torchrun:
    """The rows on so many GPUs, by processes that are started again after a row that ended them."""

    def __init__(self, args: argparse.Namespace, gpus: int, first: int, seconds: float) -> None:
        self.args, self.gpus, self.first = args, gpus, first
        self.rows, self.until = Path(args.out) / f"rows{gpus}.jsonl", time.time() + seconds
        self.rows.unlink(missing_ok=True)
        self.asked = rows_of(args)
        self.start()

    def done(self) -> int:
        return len(self.rows.read_text().splitlines()) if self.rows.exists() else 0

    def start(self) -> None:
        own = [__file__, "--out", self.args.out, "--device", self.args.device, "--costs", str(Path(self.args.out) / "costs.json")]
        own += ["--rows", str(self.rows), "--skip", str(self.done()), "--deadline", str(self.until - 15)]
        own += ["--only", *(str(i) for i, _ in self.asked)]
        self.before = self.done()
        self.process = started(self.gpus, self.first, own, self.args.out)

    def poll(self) -> bool:
        """Whether there is more to wait for."""
        if self.process.poll() is None and time.time() < self.until + 15:
            return True
        stop(self.process)
        late = time.time() > self.until
        if late or not (self.done() > self.before and self.failed()):
            text = {"skipped": "out of time"} if late else {"error": f"its processes ended with exit code {self.process.returncode}"}
            for i, row in self.asked[self.done() : None if late else self.done() + 1]:
                with open(self.rows, "a") as f:
                    f.write(json.dumps(vars(row) | {"ranks": self.gpus, "row": i} | text) + "\n")
        if self.done() < len(self.asked):
            self.start()
            return True
        return False

    def failed(self) -> bool:
        """Whether the last row says so itself."""
        return "error" in json.loads(self.rows.read_text().splitlines()[-1])


def started(gpus: int, first: int, command: list[str], out: str) -> subprocess.Popen:
    """By torchrun, on the GPUs first, first + 1, ... of those that are visible."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    own = [visible[i] if i < len(visible) and visible[i] else str(i) for i in range(first, first + gpus)]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(own), "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), env.get("PYTHONPATH", "")])
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus), *command]
    with open(Path(out) / "log.txt", "a") as log:
        return subprocess.Popen(run, env=env, stdout=log, stderr=log)


def stop(process: subprocess.Popen) -> None:
    """torchrun ends its ranks when it is asked to."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def compile_first(args: argparse.Namespace) -> None:
    """The kernels of the precision of most rows, several at a time: ranks would do it one after the other, all of them the same."""
    if args.device != "cpu":
        command = [sys.executable, "-m", "foldfit", "profile", "--all", "--compile", "all", "--precisions", "bf16", "--device", args.device]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, timeout=15 * args.minutes, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def profile(args: argparse.Namespace, gpus: int, first: int, seconds: float) -> None:
    """The collectives between so many, into FOLDER/collectives.json."""
    memory = "40MiB" if args.device == "cpu" else "8GiB"
    own = ["-m", "foldfit", "profile", "--gpus", str(gpus), "--device", args.device, "--memory", memory]
    process = started(gpus, first, [*own, "--costs", str(Path(args.out) / "collectives.json")], args.out)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        stop(process)


def database(args: argparse.Namespace) -> int:
    """FOLDER/costs.json: what plans for this device stand on anyway, with the collectives. Returns how many there are."""
    device = device_of(args.device, "")
    measured, shipped = Path(args.out) / "collectives.json", costs_file(device)
    links = load_costs(measured) if measured.exists() else None
    costs = load_costs(shipped) if shipped else links
    if costs and links:
        costs = msgspec.structs.replace(costs, collectives=links.collectives)
    if costs:
        costs.save(Path(args.out) / "costs.json")
    measured.unlink(missing_ok=True)
    return len(costs.collectives) if costs else 0


def drive(args: argparse.Namespace) -> None:
    import torch

    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "log.txt").unlink(missing_ok=True)
    begin, several = time.time(), [n for n in args.gpus if n > 1]
    if not args.compiled:
        compile_first(args)
    for n in several:
        if not are_measured(device_of(args.device, ""), n):
            profile(args, n, 0, 45)
    print(f"{database(args)} collectives after {time.time() - begin:.0f} s", flush=True)
    # One GPU beside the first of the others, where the host has enough of them; then the rest, one after the other.
    count = torch.cuda.device_count() if args.device != "cpu" else 99
    turns = [[n] for n in args.gpus]
    if 1 in args.gpus and several and 1 + several[0] <= count:
        turns = [[1, several[0]], *([n] for n in several[1:])]
    for i, turn in enumerate(turns):
        seconds = (60 * args.minutes - (time.time() - begin)) / (len(turns) - i) - 15
        running = [Torchrun(args, n, 0 if n == 1 or len(turn) == 1 else 1, seconds) for n in turn]
        while running:
            running = [r for r in running if r.poll()]
            time.sleep(0.2)
        print(f"{turn} done after {time.time() - begin:.0f} s", flush=True)
    rows = [json.loads(line) for n in args.gpus for line in (out / f"rows{n}.jsonl").read_text().splitlines()]
    for n in args.gpus:
        (out / f"rows{n}.jsonl").unlink()
    name = "cpu" if args.device == "cpu" else torch.cuda.get_device_name()
    head = {"device": name, "devices": count, "torch": torch.__version__, "python": sys.version.split()[0]}
    text = json.dumps(head | {"date": datetime.date.today().isoformat(), "rows": rows}, indent=1)
    (out / "ranks.json").write_text(text + "\n")
    print(table(rows))


def table(rows: list[dict]) -> str:
    alone = {r["row"]: r for r in rows if r["ranks"] == 1}
    head = (
        ("seconds", 10),
        ("promised", 10),
        ("efficiency", 11),
        ("exposed", 9),
        ("promised", 9),
        ("peak GB", 9),
        ("of 1", 6),
        ("kept", 6),
    )
    lines = [f"{'row':44}{'GPUs':>5}" + "".join(f"{word:>{width}}" for word, width in head)]
    for r in sorted(rows, key=lambda r: (r["row"], r["ranks"])):
        sizes = f"{r['mode']} {r['precision']} {r['n_seq']}, {r['n_res']} x {r['blocks']} {r['launch']} {r['policy']}"
        line, one = f"{sizes:44}{r['ranks']:>5}", alone.get(r["row"], {})
        if "largest_error" in r:
            line += f"  largest error {r['largest_error']:.1e} of {r['of']} tensors"
        elif "seconds" in r:
            efficiency = f"{100 * one['seconds'] / r['ranks'] / r['seconds']:.1f} %" if "seconds" in one else ""
            of_one = f"{r['peak'] / one['peak']:.2f}" if "peak" in one else ""
            line += f"{r['seconds']:>10.4f}{r['promised_seconds']:>10.4f}{efficiency:>11}"
            line += f"{1e3 * r['exposed']:>6.0f} ms{1e3 * r['promised_exposed']:>6.0f} ms"
            line += f"{r['peak'] / 1e9:>9.2f}{of_one:>6}{'yes' if r['kept'] else 'NO':>6}"
            line += f"  longest n_res {r['longest_n_res']}" if r["what"] == "longest" else ""
            line += f"  {r['in_pieces']} in pieces" if r["in_pieces"] else ""
        else:
            line += "  " + next(f"{k}: {r[k]}" for k in ("error", "does_not_fit", "skipped") if k in r)
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, metavar="FOLDER")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--gpus", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--only", nargs="+", type=int, metavar="N", help="rows of the table by number, from 0")
    parser.add_argument("--compiled", action="store_true", help="this machine has run all kernels before: none is compiled ahead")
    for name, kind in (("costs", str), ("rows", str), ("skip", int), ("deadline", float)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rows:
        args.costs = args.costs if Path(args.costs).exists() else ""
        work(args)
    else:
        drive(args)


if __name__ == "__main__":
    main()
