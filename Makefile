# Every target sets up what it needs; `make` lists them.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
CONFIG ?= configs/demo.yaml
ARGS   ?=
# for a torch without CUDA where pip's own index has none: https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# the image that the golden copy of the compiled pipeline names
IMAGE  ?= registry.example/mec@sha256:0000000000000000000000000000000000000000000000000000000000000000
# of images and push: cpu, gpu or both
TARGETS ?= cpu
# where push pushes to, such as ghcr.io/you
REGISTRY ?=
# more options of docker build; for a base image by digest: --build-arg PYTHON_IMAGE=python@sha256:…
IMAGE_ARGS ?=
# in place of docker build, a command that takes TAG DOCKERFILE CONTEXT and then docker build's options
IMAGE_BUILDER ?=

BIN   := $(VENV)/bin
STAMP := $(VENV)/.mec-setup
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' mec/version.py)

.DEFAULT_GOAL := help
.PHONY: help setup run test lint typecheck compile images push clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
	@echo
	@echo "  make run CONFIG=configs/ml1m.yaml ARGS='--out runs/ml1m --set quantize.budget=16x'"

setup: $(STAMP)  ## make .venv with everything that mec needs

# torch in a call of its own, by its exact version: a resolver that meets it among
# others may take a build with several GB of CUDA packages
$(STAMP): pyproject.toml constraints.txt
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "mec needs Python 3.11 or later, and '$(PYTHON)' is not. Name one: make PYTHON=/path/to/python3.11"; exit 1; }
	'$(PYTHON)' -m venv $(VENV)
	@echo "installing into $(VENV), which takes some minutes the first time"
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)" $(TORCH_INDEX:%=--extra-index-url %)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

run: $(STAMP)  ## run the train pipeline here (CONFIG, ARGS)
	$(BIN)/mec run $(CONFIG) $(ARGS)

test: $(STAMP)  ## run the tests (ARGS)
	$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

lint: $(STAMP)  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(STAMP)  ## check types, strictly
	MYPYPATH=benchmarks $(BIN)/mypy --strict mec pipelines benchmarks/compression_study benchmarks/compression.py \
		benchmarks/bakeoff_study benchmarks/bakeoff.py

compile: $(STAMP)  ## compile the pipelines to pipelines/compiled (IMAGE)
	$(BIN)/mec compile --image $(IMAGE) --out pipelines/compiled

images:  ## build the image of the steps, mec:VERSION-cpu (TARGETS, IMAGE_ARGS)
	@set -e; for target in $(TARGETS); do \
		$(if $(IMAGE_BUILDER),$(IMAGE_BUILDER) "mec:$(VERSION)-$$target" docker/Dockerfile .,docker build -t "mec:$(VERSION)-$$target" -f docker/Dockerfile .) \
			--target "$$target" --build-arg VERSION=$(VERSION) \
			--build-arg REVISION="$$(git describe --always --dirty --abbrev=40 --exclude='*')" $(IMAGE_ARGS); \
	done

# the registry's digest, from the push: an engine may pack layers anew, and know another of its own
push:  ## push the images and print their names by digest (REGISTRY, TARGETS)
	@test -n "$(REGISTRY)" || { echo "name a registry: make push REGISTRY=registry.example/you"; exit 1; }
	@set -e; for target in $(TARGETS); do \
		docker tag "mec:$(VERSION)-$$target" "$(REGISTRY)/mec:$(VERSION)-$$target"; \
		digest=$$(docker push "$(REGISTRY)/mec:$(VERSION)-$$target" | sed -n 's/.*digest: \(sha256:[0-9a-f]*\).*/\1/p'); \
		test -n "$$digest" || { echo "docker push of $(REGISTRY)/mec:$(VERSION)-$$target named no digest" >&2; exit 1; }; \
		echo "$(REGISTRY)/mec@$$digest"; \
	done

clean:  ## remove .venv, caches and build results; runs/ and .mec/ stay
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
