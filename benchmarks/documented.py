"""What the documentation shows of `foldfit plan`, `compare` and `max` for cards that need not be here, printed anew.

    python benchmarks/documented.py     # where kernels, costs or the planner have changed; then read the text around it again

In a block of code, the lines after `$ foldfit ...` are the output's: as many of the first ones as the page has, and after `...` those
that begin alike.
"""

import io
import os
import re
import shlex
import tempfile
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

from foldfit.cli import main
from foldfit.plans import write_text

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "tutorial.md", ROOT / "docs" / "parallel.md"]
CALL = re.compile(r"\$ (foldfit (?:plan|compare|max) .*--device .*)")


def said(command: str) -> list[str]:
    """Its lines."""
    text = io.StringIO()
    with redirect_stdout(text), redirect_stderr(text):
        main(shlex.split(command, comments=True)[1:])
    return text.getvalue().splitlines()


def label(line: str) -> str:
    return re.split(r"\s{2,}|:", line.strip())[0]


def renewed(shown: list[str], output: list[str]) -> list[str]:
    """The lines of a page, with what the output says in their places."""
    out, cut = [], False
    for line in shown:
        if line == "...":
            cut = True
            out.append(line)
        elif cut:
            out.append(next((x for x in output if label(x) == label(line)), line))
        else:
            out.append(output[len(out)])
    return out


def page(text: str) -> str:
    lines, out = text.splitlines(), []
    while lines:
        out.append(lines.pop(0))
        call = CALL.fullmatch(out[-1])
        if call:
            stop = next(i for i, line in enumerate(lines) if line.startswith(("```", "$ ")))
            out += renewed(lines[:stop], said(call[1]))
            lines = lines[stop:]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        os.symlink(ROOT / "examples", "examples")
        for path in PAGES:
            write_text(path, page(path.read_text()))
