# Thin on purpose: each target is a script of a few lines that works without make, too.

.DEFAULT_GOAL := help
.PHONY: help run test test-all test-matrix lint format setup clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

run: ## set everything up, then run a container in a Docker daemon in a virtual machine
	@scripts/setup run
	@.venv/bin/kata-dind run kata-dind/hello

test: ## run the quick tests, VMs included: a quarter of an hour once images are built; ARGS='…' goes to pytest
	@scripts/setup test
	@scripts/test --quick $(ARGS)

test-all: ## run all tests, which takes more than half an hour; ARGS='…' goes to pytest
	@scripts/setup test
	@scripts/test $(ARGS)

test-matrix: ## run every Docker on every kind of data root, and write docs/test-matrix.md
	@scripts/setup test
	@scripts/test tests/vm/test_matrix.py --matrix-page=docs/test-matrix.md $(ARGS)

lint: ## check style, types, import rules, shell scripts and generated pages
	@scripts/setup test
	@scripts/lint

format: ## format the Python code
	@scripts/setup test
	@scripts/format

setup: ## install what `make run` needs, without running it
	@scripts/setup run

clean: ## remove the virtual environment and caches of this checkout; sandboxes and images stay
	@scripts/clean
