# Everything sets up .venv by itself, with the versions of constraints.txt. Another Python: make test PYTHON=python3.13
SUITABLE := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c '$(SUITABLE)' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: .venv demo test lint format bench bench-full bench-report screenshots chaos lock clean

.venv: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "pgqueue needs Python 3.11 or later: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --quiet pip==26.3
	$(PIP) install --quiet --constraint constraints.txt --build-constraint constraints.txt \
		--editable '.[asyncio,fast,embedded,demo,push,web,metrics,otel,sentry,tui]' --group dev
	touch $@

demo: .venv
	$(BIN)/pgqueue demo $(ARGS)

test: .venv
	$(BIN)/pytest -n 2 $(ARGS)

lint: .venv
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Under 20 minutes: targets, and the peers side by side. The peers are installed below .benchmarks on first use.
bench: .venv
	$(BIN)/python -m benchmarks short --fresh $(ARGS)

# Hours; stopped, it goes on where it was. Its results are committed, and bench-report makes docs/benchmarks of them.
bench-full: .venv
	$(BIN)/python -m benchmarks full $(ARGS)

bench-report: .venv
	$(BIN)/python -m benchmarks report $(ARGS)

# The pictures in the README, of chromium.
screenshots: .venv
	$(BIN)/python -m docs.dashboard.screenshots

chaos: .venv
	PGQUEUE_CHAOS=long $(BIN)/pytest tests/crash $(ARGS)

# Resolves for all platforms and Pythons; the file names versions only, no place to get them from.
lock: .venv
	$(PIP) install --quiet --group lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" --all-extras --group dev pyproject.toml --output-file constraints.txt

clean:
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
