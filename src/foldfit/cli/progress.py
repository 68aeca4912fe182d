"""Progress on stderr; silent when piped."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from foldfit.plans import Plan


@contextlib.contextmanager
def steps(plan: Plan, text: str, shown: bool = True) -> Iterator[Callable[[str, str], None] | None]:
    """A bar over the sub-modules of the plan's first run."""
    if not (shown and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    per_block = max(len(c) for c in plan.choices.values())
    total = per_block * sum(step.split()[0] in ("run", "record", "backward") for step in plan.schedule)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(text, total=total)
        yield lambda step, sub_module: progress.update(task, advance=1, description=f"{text}: {step} {sub_module}")


@contextlib.contextmanager
def counted(total: int, text: str) -> Iterator[Callable[[str], None]]:
    """A bar over so many things, each named as it begins. What is printed meanwhile stands above it."""
    if not sys.stderr.isatty():
        yield lambda name: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(
        *Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True,
        redirect_stdout=sys.stdout.isatty(),
    ) as progress:  # fmt: skip
        task = progress.add_task(text, total=total)
        yield lambda name: progress.update(task, advance=1, description=f"{text}: {name}")
