# `make run` and `make test` need Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# One test process a core and one thread each, in what tests start too; PYTEST= for one process.
PYTEST ?= -n logical --maxprocesses 8 --dist worksteal

.PHONY: run test check notebooks setup lint types security audit clean help
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

run: $(INSTALLED)  ## set up, then learn medical, legal and code one after another with C-LoRA
	$(BIN)/python run.py method=clora tasks=med_legal_code

test: $(INSTALLED)  ## set up, then run every test, the slow ones included
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST)

check: lint types security  ## format, lint, types, bandit and the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST) -m "not slow"

notebooks: $(INSTALLED)  ## run the notebooks from a clean slate and keep what they show
	$(BIN)/python notebooks/execute.py

setup: $(INSTALLED)  ## create .venv with the pinned dependencies

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(INSTALLED)
	$(BIN)/mypy

security: $(INSTALLED)  ## bandit over what is shipped; the exceptions are explained in pyproject.toml
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive clora_exp experiments benchmarks run.py

audit: $(INSTALLED)  ## look up known vulnerabilities of the pinned packages (asks a service on the network)
	.ci/audit must

clean:  ## remove the environment (results stay)
	rm -rf $(VENV)

# The stamp is written last: an interrupted set-up is simply done again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"clora-exp needs Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}. Try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo 'this Python has no venv; on Debian and Ubuntu: apt install python3-venv'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
