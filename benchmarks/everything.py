"""Every measurement of docs/performance.md in one call: those of one GPU side by side, each on a GPU of its own, then those of several.

    python -m benchmarks.everything -o DIR --minutes 9 [--device H100] [--only step infer ...]    # on all GPUs of the host
    python -m benchmarks.everything -o DIR --minutes 3 --device cpu                               # small, without GPUs: that it runs

A step is a command, ended when its time is up; DIR gets what it writes, its output as NAME.log and, in everything.json, how it ended.
Called again, it goes on with the steps that have not ended well. First of all every kernel is compiled, on all cores: what runs beside
that would not be measured, but delayed.
"""

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from foldfit.cost.devices import find_device
from foldfit.plans import write_text

ROOT = Path(__file__).parents[1]
PRECISIONS = ("bf16", "fp16", "tf32", "fp32")
GRACE = 20
"""Seconds that a step has to end when it is asked to."""


@dataclass(frozen=True)
class Step:
    """`command`: Python's arguments, with {out}, {device}, {minutes}, as long as it may take at most, and {room}, what it may give
    to tensors, GiB."""

    name: str
    gpus: int
    minutes: float
    command: str


def beside(*parts: str) -> str:
    return f"-m benchmarks.side_by_side --device {{device}} --json {{out}}/{parts[0]}.json --only {' '.join(parts)}"


TORCHRUN = "-m torch.distributed.run --standalone --nproc-per-node"


def study(gpus: int) -> str:
    runs = "--repeat 3 --warmup 0 --budget 200"
    return f"-m foldfit bench study --device cuda --limits V100-32GB,{{room}}GiB --gpus {gpus} {runs} -o {{out}}/study{gpus}"


STEPS = (
    Step("captured", 2, 2, "benchmarks/captured_collectives.py --gpus 2 --json {out}/captured.json"),
    Step("step", 1, 5, beside("step")),
    Step("extra", 1, 3, beside("extra")),
    Step("study1", 1, 5, study(1)),
    Step("infer", 1, 4, beside("infer")),
    Step("doctor", 1, 6, "-m foldfit doctor --kernels --json"),
    Step("compiled", 1, 3, "benchmarks/compiled.py --json {out}/compiled.json --patience 60 --seconds 120"),
    Step("frontier", 1, 4, beside("frontier")),
    Step("attention", 1, 4, beside("attention", "triangle")),
    Step("longest", 1, 3, beside("longest")),
    Step("promise", 1, 6, "benchmarks/promise.py run -o {out}/promise --minutes {minutes}"),
    Step("sanitize", 1, 3, "-m benchmarks.sanitize -o {out}/sanitize --minutes {minutes}"),
    Step("moments", 1, 3, "benchmarks/moments_gpu.py --json {out}/moments.json"),
    Step("ranks4", 4, 5, "benchmarks/ranks.py --out {out}/ranks4 --gpus 4 --minutes {minutes} --compiled"),
    Step("ranks2", 2, 6, "benchmarks/ranks.py --out {out}/ranks2 --gpus 2 --minutes {minutes} --compiled"),
    Step("ranks1", 1, 6, "benchmarks/ranks.py --out {out}/ranks1 --gpus 1 --minutes {minutes} --compiled"),
    Step("study4", 4, 6, study(4)),
    Step("kernels", 4, 2, f"{TORCHRUN} 4 -m benchmarks.kernels_over_ranks --json {{out}}/kernels_over_ranks.json"),
    Step("study2", 2, 6, study(2)),
    Step("transports", 2, 1, f"{TORCHRUN} 2 -m benchmarks.transports --json {{out}}/transports.json"),
)
"""The most wanted first; of one GPU before those of several, which wait until enough are free."""
SMALL = (
    Step("compiled", 1, 3, "benchmarks/compiled.py --tiny --json {out}/compiled.json"),
    Step("captured", 2, 1, "benchmarks/captured_collectives.py --gpus 2 --device cpu --json {out}/captured.json"),
    Step("ranks2", 2, 2, "benchmarks/ranks.py --out {out}/ranks2 --device cpu --gpus 2 --minutes {minutes} --compiled"),
    Step("study1", 1, 5, "-m foldfit bench study --scale tiny -o {out}/study"),
)


def planned(args: argparse.Namespace) -> None:
    """What takes no GPU: the plans that are to be measured."""
    if not (args.output / "promise" / "promise.json").exists():
        run = [sys.executable, "benchmarks/promise.py", "plan", "--device", args.device, "-o", str(args.output / "promise")]
        subprocess.run(run, cwd=ROOT, env=environment(), check=True)


def compiled(args: argparse.Namespace, until: float) -> None:
    """The kernels of every precision, a process each, in half of the time at most."""
    begin = time.time()
    own = "-m foldfit profile --all --compile all --device cuda --precisions"
    running = [
        started(f"{own} {precision}", args.output / f"compile_{precision}.log", [i % args.gpus]) for i, precision in enumerate(PRECISIONS)
    ]
    codes = [ended(process, (begin + until) / 2) for process in running]
    print(f"compiled: {dict(zip(PRECISIONS, codes, strict=True))}, {time.time() - begin:.0f} s", flush=True)


def started(command: str, log: Path, gpus: list[int]) -> subprocess.Popen:
    env = environment() | {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
    with open(log, "a") as file:
        return subprocess.Popen([sys.executable, *command.split()], cwd=ROOT, env=env, stdout=file, stderr=file, start_new_session=True)


def environment() -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}


def ended(process: subprocess.Popen, until: float) -> int | None:
    """Its exit code, at the latest then; None: it had to be ended, with all that it started."""
    try:
        return process.wait(max(0.0, until - time.time()))
    except subprocess.TimeoutExpired:
        for how in (signal.SIGTERM, signal.SIGKILL):
            os.killpg(process.pid, how)
            try:
                process.wait(GRACE)
                break
            except subprocess.TimeoutExpired:
                continue
        return None


def drive(args: argparse.Namespace) -> None:
    args.output.mkdir(parents=True, exist_ok=True)
    until, record = time.time() + 60 * args.minutes, args.output / "everything.json"
    done = json.loads(record.read_text()) if record.exists() else {}
    steps = [s for s in (SMALL if args.device == "cpu" else STEPS) if s.name in (args.only or [s.name]) and s.gpus <= args.gpus]
    waiting = [s for s in steps if done.get(s.name, {}).get("code") != 0]
    if args.device != "cpu":
        if any(s.name == "promise" for s in waiting):
            planned(args)
        if not args.compiled:
            compiled(args, until)
    free, running = list(range(args.gpus)), []
    while waiting or running:
        left = (until - time.time()) / 60
        for step in list(waiting):
            if left < 0.5:
                done[step.name] = {"code": None, "text": "out of time"}
                waiting.remove(step)
            elif step.gpus <= len(free):
                gpus, free = free[: step.gpus], free[step.gpus :]
                minutes = min(step.minutes, left - GRACE / 60)
                names = {"out": args.output.resolve(), "device": args.device, "minutes": round(minutes - 0.2, 2), "room": args.room}
                command = step.command.format(**names)
                process = started(command, args.output / f"{step.name}.log", gpus)
                running.append((step, process, gpus, time.time(), time.time() + 60 * minutes))
                waiting.remove(step)
        for each in list(running):
            step, process, gpus, begin, end = each
            if process.poll() is None and time.time() < end:
                continue
            code = ended(process, time.time())
            done[step.name] = {"code": code, "seconds": round(time.time() - begin, 1), "gpus": gpus, "ended": now()}
            print(f"{step.name}: {'ended by its time' if code is None else f'exit code {code}'}, {time.time() - begin:.0f} s", flush=True)
            running.remove(each)
            free = sorted(free + gpus)
        write_text(record, json.dumps(done, indent=1) + "\n")
        time.sleep(0.2)


def now() -> str:
    return datetime.datetime.now().isoformat(timespec="seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument(
        "--device", default="cuda", help="whose costs plans stand on, by its name in the device table (default: the card here), or cpu"
    )
    parser.add_argument("--gpus", type=int, default=0, help="how many (default: all)")
    parser.add_argument("--only", nargs="+", metavar="STEP", choices=sorted({s.name for s in (*STEPS, *SMALL)}))
    parser.add_argument("--compiled", action="store_true", help="this machine has run all kernels before: none is compiled ahead")
    args = parser.parse_args()
    if args.device == "cuda":
        from foldfit.profile.here import cuda_device

        args.device = cuda_device().name
    args.room = int(0.935 * find_device(args.device).memory / 2**30)
    if not args.gpus:
        import torch

        args.gpus = torch.cuda.device_count() or 2
    drive(args)


if __name__ == "__main__":
    main()
