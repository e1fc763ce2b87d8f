# Everything from a bare checkout. `make help` lists the targets.
#
#   PYTHON=python3.12    which Python makes the environment (default: the first that fits)
#   VENV=folder          where the environment is (default: .venv)
#   PLATFORM=cpu         cpu, cuda or tpu (default: what this machine has)
#   ARGS="..."           more flags for the command, e.g. ARGS="--config.steps=20"

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help train compare test prove check clean

VENV ?= .venv
PLATFORM ?= auto
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
  && echo $$p && break; done)
ARGS ?=

# What the program calls the device that PLATFORM names.
device_cpu := cpu
device_cuda := gpu
device_tpu := tpu
device_flag := $(if $(device_$(PLATFORM)),--config.mesh.platform=$(device_$(PLATFORM)))

python := $(VENV)/bin/python
install = $(if $(PYTHON),$(PYTHON) scripts/install.py --venv $(VENV) --platform $(PLATFORM),\
  @echo "make: no Python 3.11, 3.12 or 3.13 on PATH; install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1;)

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*##/make \1\t/p' Makefile | expand -t 14

train:  ## install, prepare data and model where needed, train: writes runs/lora
	$(install) train
	$(python) -m coderllm_jax.train --config=configs/lora.py $(device_flag) $(ARGS)

compare:  ## install, compare the trained model with retrieval and the base: writes runs/comparison
	$(install) compare
	$(python) -m coderllm_jax.compare --config=configs/comparison.py $(ARGS)

test:  ## install, check, run the tests
	$(install) test
	scripts/check $(python)
	$(python) -m pytest --numprocesses=2 --dist=loadfile $(ARGS)

prove:  ## install everything: peers, benchmarks, killed runs (long)
	$(install) full
	JAX_DISABLE_MOST_OPTIMIZATIONS=false $(python) -m pytest -m "peers or long"
	$(python) -m benchmarks.pipeline
	$(python) -m benchmarks.train_step
	$(python) -m benchmarks.generate --report=benchmarks/generate.md
	$(python) -m benchmarks.retrieval --report=benchmarks/retrieval.md
	$(python) -m benchmarks.comparison_simulation --report=benchmarks/comparison_simulation.md
	$(python) -m benchmarks.serving --report=benchmarks/serving.md
	$(python) -m benchmarks.peers --report=benchmarks/peers.md
	$(python) -m benchmarks.monitoring --report=benchmarks/monitoring.md
	$(python) -m benchmarks.monitoring_day --report=benchmarks/monitoring_day.md
	$(python) -m benchmarks.quantization --report=benchmarks/quantization.md
	$(python) -m benchmarks.families --report=benchmarks/families.md
	$(python) -m benchmarks.export --report=benchmarks/export.md
	$(python) -m benchmarks.topologies --report=benchmarks/topologies.md
	$(python) -m benchmarks.kill_trials --report=benchmarks/kill_trials.md

check:  ## format, lint, types, import contracts
	$(install) test
	scripts/check $(python)

clean:  ## remove the environment and every cache; runs and data stay
	rm -rf $(VENV) $(VENV).lock .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
