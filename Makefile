# Everything sets itself up: a Python of 3.11 or newer and make are all that is needed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint format bench bench-full clients endurance clean

INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# The command alone; what the tests and the checks need besides is .venv/ready.
.venv/app: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(INSTALL) -e '.[pages]'
	touch .venv/app

.venv/ready: .venv/app
	$(INSTALL) -e '.[dev]'
	touch .venv/ready

demo: .venv/app
	$(BIN)/mcp-chat-server demo

# On every core; a worker that has nothing left to do takes tests from another.
test: .venv/ready
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m docs.check

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Other people's clients, each in an environment of its own; needs npm.
clients: .venv/ready
	$(BIN)/python -m tests.clients.run
	$(BIN)/python -m tests.clients.relay

# Under ten minutes; installs other stores in environments of their own. Writes docs/performance.md.
bench: .venv/ready
	$(BIN)/python -m benchmarks.run --write

bench-full: .venv/ready
	$(BIN)/python -m benchmarks.run --full --write

# The reliability tests with larger counts: hours. Writes what was seen to docs/reliability.md.
endurance: .venv/ready
	$(BIN)/python -m tests.reliability.report

clean:
	rm -rf .venv .clients .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
