# make train: a fresh machine to a trained swarm and a GIF.  make test: the tests.  make test-all: with the slow ones.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/quickstart
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: train test test-all lint bench clean

train: $(VENV)/installed
	@if ls $(RUN)/checkpoints/*.safetensors >/dev/null 2>&1; then \
		$(BIN)/python -m trainers.jax_ppo --run-dir $(RUN) --resume; \
	else \
		$(BIN)/python -m trainers.jax_ppo --run-dir $(RUN); \
	fi
	$(BIN)/python -m trainers.evaluate $(RUN) --gif $(RUN)/videos/swarm.gif

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto --dist loadscope --durations 25 -m "not slow"

test-all: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto --dist loadscope --durations 25

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed
	$(INSTALL) -e '.[bench,sb3]' vmas jaxmarl camar
	$(BIN)/python -m benchmarks.env_steps --json benchmarks/results/env_steps.json
	$(BIN)/python -m benchmarks.pettingzoo_latency --json benchmarks/results/pettingzoo_latency.json
	$(BIN)/python -m benchmarks.scaling --json benchmarks/results/scaling.json
	$(BIN)/python -m benchmarks.peers --json benchmarks/results/peers.json
	$(BIN)/python -m benchmarks.training --suite speed --json benchmarks/results/training.json
	$(BIN)/python -m benchmarks.training --suite quickstart --json benchmarks/results/training.json
	$(BIN)/python -m benchmarks.training --suite scenarios --json benchmarks/results/training.json
	$(BIN)/python -m benchmarks.sb3 --suite speed --json benchmarks/results/sb3.json
	$(BIN)/python -m benchmarks.sb3 --suite training --json benchmarks/results/sb3.json
	$(BIN)/python -m benchmarks.crowds --json benchmarks/results/crowds.json
	$(BIN)/python -m benchmarks.plots
	$(BIN)/python -m benchmarks.readme

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing entropy-env into $(VENV), a minute or two on a fresh machine"
	$(INSTALL) -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) -e '.[dev,sb3,supersuit,tracking]'
	@touch $@
