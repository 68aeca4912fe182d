"""docs/questions.md, docs/study.md and docs/cards.md are what their scripts make of their result files: no figure was typed."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_made_of_the_results():
    questions, study, cards = script("questions"), script("study_page"), script("cards")
    assert questions.PAGE.read_text() == questions.page(json.loads(questions.RESULTS.read_text()))
    assert study.PAGE.read_text() == study.page()
    assert cards.PAGE.read_text() == cards.page(json.loads(cards.RESULTS.read_text()))
