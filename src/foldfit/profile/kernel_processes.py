"""The checks of kernel_check.py in processes of their own, several at a time.

Triton compiles on one core; and what one kernel breaks, its CUDA context or its process, is no other kernel's verdict.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import IO

from foldfit.profile.kernel_check import Case, Verdict, cases, check

MEMORY = 4 * 2**30
"""Bytes of a process at the most, CUDA's own included: the long rows."""


def verdicts(by_mark: dict[str, list[Case]], device: str, processes: int) -> Iterator[tuple[str, list[Verdict]]]:
    """The marks with their verdicts, as they come in."""
    waiting = sorted(by_mark, key=lambda name: -len(by_mark[name]))  # what takes longest first
    running: dict[str, tuple[subprocess.Popen[str], IO[str]]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                name, said = waiting.pop(0), tempfile.TemporaryFile("w+")
                command = [sys.executable, "-m", "foldfit.profile.kernel_processes", device, name]
                running[name] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True), said
            for name in [n for n, (process, _) in running.items() if process.poll() is not None]:
                process, errors = running.pop(name)
                with process, errors:
                    lines = process.communicate()[0].splitlines()
                    errors.seek(0)
                    why = f"exit code {process.returncode}: {(errors.read().strip().splitlines() or ['nothing said'])[-1]}"
                found = [Verdict(**json.loads(line)) for line in lines]
                yield name, found + [broken(case, why) for case in by_mark[name][len(found) :]]
            time.sleep(0.02)
    finally:
        for process, _ in running.values():
            process.kill()


def broken(case: Case, why: str) -> Verdict:
    """Of a process that ended before it."""
    nan = float("nan")
    return Verdict(case.kernel, case.sub.name, case.sub.kind, case.precision, case.length, nan, nan, nan, why)


def main(device: str, mark: str) -> None:
    """Checks what has this mark; a line each."""
    for case in cases(device, [mark.split()[-1]]):
        if case.mark == mark:
            print(json.dumps(asdict(check(case, device))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
