# make up       the whole loop with a live view      make test    everything CI checks
# make lint     style, types, imports, contract      make bench   latency and throughput on this machine
#
# Arguments pass through ARGS: make up ARGS="--rate 20", make test ARGS="-k catalogue".

ARGS =
VENV = .venv
PYTHONS = python3.11 python3.12 python3.13 python3
INSTALLED = $(VENV)/.installed

.PHONY: up test lint bench venv

up: venv
	@$(VENV)/bin/tablecast up $(ARGS)

test: lint
	$(VENV)/bin/python -m pytest $(ARGS)

lint: venv
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python -m schemas.documents --check

bench: venv
	@$(VENV)/bin/tablecast bench $(ARGS)

venv: $(INSTALLED)

# Each name is run, not looked up: a version manager's shim exists for versions that are not there.
$(INSTALLED): pyproject.toml constraints.txt
	@for python in $(PYTHONS); do \
	  if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	    echo "creating $(VENV) with $$($$python --version); the first time fetches about 3 GB, most of it for GPUs"; \
	    exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo "Tablecast needs Python 3.11, 3.12 or 3.13; none of $(PYTHONS) is one. Install it, or name yours:" \
	  "make venv PYTHONS=/path/to/python" >&2; exit 1
	$(VENV)/bin/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@
