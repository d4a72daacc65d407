# Every target sets itself up: `make demo` works on a fresh clone.
BIN := .venv/bin
STAMP := .venv/.synced

# byte code is kept even where the shell asks not to: the engine starts three times as fast
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help env demo test lint format check clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 10

env: $(STAMP)  ## create .venv (bootstraps uv into .uv where it is missing)

$(STAMP): pyproject.toml uv.lock .python-version
	@.ci/env

demo: env  ## run the whole chain on this machine and write runs/demo/report.html
	$(BIN)/bielik demo --output runs/demo

# two at a time, a file's tests together, a thread each: more would wait for each other on two cores;
# pytest by itself runs them in one process
test: env  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile

lint: env  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: env  ## mend what can be mended automatically
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint test  ## everything that must pass before a commit

clean:  ## remove caches and builds (keeps .venv and runs)
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -not -path './.uv/*' -prune -exec rm -rf {} +
