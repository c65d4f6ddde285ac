# Two commands do everything on a fresh machine with Python 3.11 and make: `make demo` and `make test`.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SAMPLE ?= fashion_mnist_file
STAMP := $(VENV)/.installed

.PHONY: demo test lint environment clean

demo: environment  ## audit a dataset that ships with the project and say how many planted errors were found
	$(BIN)/python -m benchmarks.demo $(SAMPLE)

test: environment  ## run all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile tests

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

environment: $(STAMP)

$(STAMP): pyproject.toml constraints.txt pipeline/__init__.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=24'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
