"""The notebook runs from top to bottom, each cell as a notebook would run it, and says what it says it does."""

import ast
import json
from pathlib import Path

import pytest

from foldfit.plans import Plan

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(source: str, names: dict) -> object:
    """A cell; the value of its last expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None


@pytest.fixture(scope="module")
def notebook():
    return json.loads((EXAMPLES / "tutorial.ipynb").read_text())


def test_it_is_a_notebook_without_outputs(notebook):
    assert notebook["nbformat"] == 4 and len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 7 and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_it_runs(notebook, capsys, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    names: dict = {"__name__": "__main__"}
    shown = [run("".join(cell["source"]), names) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    out = capsys.readouterr().out
    assert shown[0] == (names["n_seq"], 191) and isinstance(shown[1], Plan) and "<table>" in shown[1]._repr_html_()
    assert "does not fit" in out and "training needs at least" in out and "promised" in out
    assert shown[-1][0] == shown[-1][1] > 0
