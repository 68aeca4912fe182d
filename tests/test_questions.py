"""docs/questions.md is what its script makes of its result file: no figure was typed."""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_page_is_made_of_the_results():
    spec = importlib.util.spec_from_file_location("questions", ROOT / "benchmarks" / "questions.py")
    assert spec and spec.loader
    questions = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(questions)
    assert questions.PAGE.read_text() == questions.page(json.loads(questions.RESULTS.read_text()))
