"""What the documentation says to type: Python runs as it stands there, each page in a process of its own; commands have flags that are
there, and name scripts and files that are."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from foldfit.cli import parser_of

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", ["extending.md"])
def test_a_page_runs(page, tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    (tmp_path / "page.py").write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, "-W", "error", "page.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def commands() -> list[tuple[str, str]]:
    """(page, command) of every line in a block of code, and of code in the text, that calls foldfit or a script."""
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        lines = [line for block in blocks for line in block.splitlines()] + re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
        lines += [line.strip() for line in text.splitlines() if line.startswith("    foldfit ")]
        for line in lines:
            command = re.sub(r"^(torchrun --nproc-per-node \d+ -m |python -m )(?=foldfit )", "", line.strip().removeprefix("$ "))
            if (
                re.match(r"(foldfit|python3?) \S", command)
                and not re.search(r"\.\.\.|VERB| [|] ", command)
                and not re.match(r"foldfit \S+: ", command)
            ):
                found.append((page.name, command))
    return found


def test_commands_are_what_the_command_line_takes(capsys):
    seen = commands()
    assert len(seen) > 60
    wrong = []
    for page, command in seen:
        name, *argv = shlex.split(command, comments=True)
        if name == "foldfit":
            argv = [arg for arg in argv if not re.fullmatch("[A-Z]+", arg)] if len(argv) < 3 else argv
            try:
                verb = next(arg for arg in argv if not arg.startswith("-"))
                needed = {"run": ["plan.json"], "report": ["DIR"]}.get(verb, []) if len(argv) == 1 else []
                parser_of(verb).parse_args([*argv, *needed])
            except (SystemExit, StopIteration):
                wrong.append(f"{page}: {command}: {capsys.readouterr().err.strip()}")
        elif argv[0].endswith(".py") and not (ROOT / argv[0]).is_file():
            wrong.append(f"{page}: {command}: no such script")
    assert not wrong, "\n".join(wrong)


def test_files_of_results_that_pages_name_are_there():
    wrong = [
        f"{page.name}: {name}"
        for page in PAGES
        for name in re.findall(r"(?:benchmarks|src|tests|examples)/[\w/.-]*\.(?:json|csv|txt|py|ipynb|a3m)", page.read_text())
        if not (ROOT / name).is_file()
    ]
    assert not wrong, "\n".join(wrong)
