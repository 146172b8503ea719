# The targets are thin: what they do is in scripts/setup.sh and in `vla-ros`. All paths are relative, because make splits
# a $(CURDIR) with spaces in it.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check clean bench-metaworld bench-gym_aloha bench-kitchen bench-lerobot

QUICK ?=
VENV_PYTHON := .venv/bin/python
# A sourced ROS 2 or a user's PYTHONPATH must not leak into the environment made here.
unexport PYTHONPATH
unexport PYTHONHOME

help:
	@echo 'make demo          run the whole thing: cell, policy, safety filter, practice, hot swap ([QUICK=1] for a short run)'
	@echo 'make test          unit, property and graph tests'
	@echo 'make check         ruff and mypy'
	@echo 'make setup         only prepare .venv (the other targets do it when needed)'
	@echo 'make bench-NAME    prepare .venv-NAME, the simulator of --env NAME: metaworld, gym_aloha, kitchen'
	@echo 'make bench-lerobot    prepare .venv-lerobot (8 GB), for the comparisons of benchmarks/inference.py and recording.py'
	@echo 'make clean         remove .venv, caches and build folders; recordings under runs/ stay'

setup:
	@./scripts/setup.sh

demo: setup
	@.venv/bin/vla-ros demo $(if $(filter-out 0 no false,$(QUICK)),--quick)

test: setup
	@./scripts/test.sh

check: setup
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m mypy

bench-metaworld bench-gym_aloha bench-kitchen:
	@./scripts/bench_env.sh $(@:bench-%=%)

bench-lerobot:
	@./scripts/bench_env.sh lerobot

clean:
	rm -rf .venv .venv-metaworld .venv-gym_aloha .venv-kitchen .venv-lerobot build install log .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
