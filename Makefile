# `make demo` and `make test` set themselves up; only Python 3.11 or newer, make and pip are needed.
PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

.PHONY: setup demo test lint docs
setup: .venv/.ready

.venv/.ready: pyproject.toml
	@test -x "$$(command -v $(UV))" || $(PYTHON) -m pip install --quiet --target .uv uv
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	$(UV) pip install --quiet --python .venv/bin/python --group dev -e .
	@touch $@

demo: setup
	OMP_WAIT_POLICY=PASSIVE .venv/bin/python examples/demo.py

test: setup
	OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	.venv/bin/lint-imports

docs: setup
	.venv/bin/python docs/config_reference.py
	.venv/bin/python docs/python_reference.py
	.venv/bin/zensical build --clean --strict
