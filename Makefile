# make quickstart | test | test-all | lint | bench : each sets up .venv first, once.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ecglm-installed
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
# A test that waits for ever fails after 300 s; where its cleaning up waits as well, its process is ended and replaced.
LIMITS := -o faulthandler_exit_on_timeout=true
# Tests start many processes; where no bytecode is kept, each of them compiles the package anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: quickstart test test-all lint format bench clean
quickstart: $(STAMP)
	$(BIN)/ecglm quickstart

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal --timeout 300 $(LIMITS) -o faulthandler_timeout=420 -m "not slow"

test-all: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal --timeout 3600 $(LIMITS) -o faulthandler_timeout=3900

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
