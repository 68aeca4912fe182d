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
