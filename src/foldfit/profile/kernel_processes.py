"""The checks of kernel_check.py in processes of their own, several at a time.

Triton compiles on one core; and what one kernel breaks, its CUDA context or its process, is no other kernel's verdict.
"""

import multiprocessing
import signal
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait

from foldfit.profile.kernel_check import Case, Verdict, check

MEMORY = 4 * 2**30
"""Bytes of a process at the most, CUDA's own included: the long rows."""


def verdicts(by_mark: dict[str, list[Case]], device: str, processes: int) -> Iterator[tuple[str, list[Verdict]]]:
    """The marks with their verdicts, as they come in. Processes are forked from one that has imported PyTorch and never touched a
    GPU."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    waiting = sorted(by_mark, key=lambda name: -len(by_mark[name]))  # what takes longest first
    running: dict[str, tuple[multiprocessing.Process, Connection]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                name = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                process: multiprocessing.Process = context.Process(target=judge, args=(by_mark[name], device, theirs), daemon=True)  # type: ignore[assignment]
                process.start()
                theirs.close()
                running[name] = process, ours
            ended = wait([process.sentinel for process, _ in running.values()])
            for name in [n for n, (process, _) in running.items() if process.sentinel in ended]:
                process, ours = running.pop(name)
                process.join()
                found = list(received(ours))
                yield (
                    name,
                    found + [broken(case, f"its process ended with exit code {process.exitcode}") for case in by_mark[name][len(found) :]],
                )
    finally:
        for process, _ in running.values():
            process.kill()


def judge(cases: list[Case], device: str, verdicts: Connection) -> None:
    """In a process of its own, which its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    for case in cases:
        verdicts.send(check(case, device))


def received(verdicts: Connection) -> Iterator[Verdict]:
    with verdicts:
        while True:
            try:
                yield verdicts.recv()
            except EOFError:
                return


def broken(case: Case, why: str) -> Verdict:
    """Of a process that ended before it."""
    nan = float("nan")
    return Verdict(case.kernel, case.sub.name, case.sub.kind, case.precision, case.length, nan, nan, nan, why)
