# `make run` and `make test` are all a newcomer needs; each sets up what it needs, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help venv run test check peers soak torture readme clean

help:  ## what can be made
	@sed -n 's/^\([a-z]*\):.*## /make \1  - /p' $(MAKEFILE_LIST)

$(BIN)/python:
	PYTHON="$(PYTHON)" tools/venv.sh $(VENV)

$(VENV)/.run: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e '.[adapter,fast]'
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.run

venv: $(VENV)/.test  ## the development environment in .venv

run: $(VENV)/.run  ## agent and adapter on this machine, with the embedded store
	@$(BIN)/python -m tools.run

check: $(VENV)/.test  ## format, lint, types, import contracts, generated parts of the README
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.readme --check

peers:  ## build or install the real peers that tests use, once
	REQUIRE_PEERS=1 tools/peers.sh

test: $(VENV)/.test  ## all tests; real peers where this machine has them
	@tools/peers.sh
	$(BIN)/python -m pytest -m 'not soak and not torture' --cov --cov-report=term

soak: $(VENV)/.test  ## ten minutes of `make run` at a 1 s interval, and half an hour of load on the receiver
	@tools/peers.sh
	$(BIN)/python -m pytest -m soak -s

torture: $(VENV)/.test  ## what the ring promises, for hours: kills, power cuts, and every order of calls
	$(BIN)/python -m pytest -m torture -s

readme: $(VENV)/.test  ## write the generated tables into the README again
	$(BIN)/python -m tools.readme

clean:  ## remove the environment and what `make run` stored
	rm -rf $(VENV) .run
