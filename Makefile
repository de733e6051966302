# Everything a checkout needs. Each target makes .venv by itself, with pip alone.
#   make demo    refine a real photo's mask with the bundled model
#   make test    run the tests (fast ones)
#   make lint    ruff and mypy
#   make bench   time and memory, as ratios: the quick ones, a quarter of an hour
#   make bench-all  those that take longer as well
#   make clean   remove .venv and what was built
# PYTHON=/path/to/python names the interpreter to make .venv with.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint bench bench-all clean help

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/core.stamp
	$(BIN)/crispseg demo

# Two at a time, each on one core: in two thirds of the time.
test: $(VENV)/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Those that take more than a few minutes each.
SLOW_BENCHMARKS := $(addprefix benchmarks/,large_memory.py published_speed.py segmenter_speed.py)

bench: $(VENV)/dev.stamp
	for script in $(filter-out $(SLOW_BENCHMARKS),$(wildcard benchmarks/*.py)); do \
		echo "$$script"; $(BIN)/python $$script || exit 1; done

bench-all: bench
	for script in $(SLOW_BENCHMARKS); do echo "$$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	@for python in "$(PYTHON)" python3.11 python3.12 python3.13 python3; do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		echo "$$python -m venv $(VENV)"; \
		"$$python" -m venv $(VENV) && exit 0; \
		rm -f $@; exit 1; \
	done; \
	echo "error: Python 3.11 or newer is needed; set PYTHON=/path/to/it" >&2; exit 2

$(VENV)/core.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e .
	@touch $@

# What the tests need holds what the demo needs, so both stamps are set.
$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[train,dev]'
	@touch $(VENV)/core.stamp $@
