# Everything runs in a virtual environment of its own. PYTHON: any Python from 3.11 on.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# PyTorch first and by itself: with it installed, nothing below has a reason to fetch another build.
TORCH ?= torch==2.13.0
export OMP_NUM_THREADS ?= 1
WORKERS ?= 2

.PHONY: demo test lint docs clean

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("foldfit needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet -e ".[viz,save,dev,docs]"
	touch $@

demo: $(BIN)/.installed
	env -u OMP_NUM_THREADS $(BIN)/python examples/demo.py

test: $(BIN)/.installed
	$(BIN)/python -m pytest -n $(WORKERS)

lint: $(BIN)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(BIN)/.installed
	$(BIN)/python -m sphinx -W -q -b html docs docs/_build

clean:
	rm -rf $(VENV) out docs/_build
