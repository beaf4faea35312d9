# `make demo` and `make test` each set up what they need first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install demo test test-cluster test-long check bench clean

install: $(STAMP)

# torch first, at the pinned version: asked for by a range it would bring gigabytes of CUDA.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Sprout-RL needs Python 3.11 or later; set PYTHON=") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/sprout demo

# Two at a time: half of the tests wait for processes. A file's tests stay together, with their servers.
test: $(STAMP)
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# Longer: on a Ray cluster of two nodes, started here.
test-cluster: $(STAMP)
	$(BIN)/pytest -m cluster

# Longer: ten thousand connections, a model made from scratch, the whole published table.
test-long: $(STAMP)
	$(BIN)/pytest -m long

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports
	$(BIN)/python .ci/check_text.py

bench: $(STAMP)
	$(BIN)/sprout bench loop --json runs/bench-loop/result.json

clean:
	rm -rf .venv runs build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
