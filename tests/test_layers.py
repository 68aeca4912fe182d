"""The layers of docs/design.md, section 2: who may import whom, and where torch may be seen."""

import ast
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1] / "src" / "foldfit"
DATA = {"errors", "_version", "units", "problem", "plans", "plans_text"}
MAY_IMPORT = {
    "inputs": {"errors"},
    "stacks": DATA,
    "cost": DATA | {"stacks"},
    "planner": DATA | {"stacks", "cost"},
    "report": DATA | {"stacks", "cost"},
    "ops": set(),
    "model": {"errors", "stacks", "ops", "inputs"},
    "runtime": DATA | {"stacks", "ops", "model", "inputs"},
    "profile": DATA | {"stacks", "ops", "model", "runtime", "cost"},
    **{name: DATA for name in DATA},
}
PLANNING = {"inputs", "stacks", "cost", "planner", "report", *DATA}
FILES = sorted(ROOT.rglob("*.py"))


def layer(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports(path: Path, everywhere: bool) -> set[str]:
    """Modules imported; `everywhere`: inside functions too, but never those that only a type checker sees."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                found.add(child.module or "")
            elif everywhere or not isinstance(child, ast.FunctionDef):
                visit(child)

    visit(tree)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_layer_imports_only_those_below_it(path):
    own = layer(path)
    if own not in MAY_IMPORT:
        return  # the public names, bench and cli may import everything
    for module in imports(path, everywhere=True):
        if module.startswith("foldfit."):
            other = module.split(".")[1]
            assert other == own or other in MAY_IMPORT[own], f"{own} imports {module}"


@pytest.mark.parametrize("path", [p for p in FILES if layer(p) in PLANNING], ids=lambda p: str(p.relative_to(ROOT)))
def test_the_planning_half_never_sees_torch(path):
    assert not any(module.split(".")[0] == "torch" for module in imports(path, everywhere=True))


def test_files_are_short():
    lengths = {path: len(path.read_text().splitlines()) for path in FILES}
    assert max(lengths.values()) <= 450, max(lengths, key=lambda p: lengths[p])
    assert median(lengths.values()) <= 150
