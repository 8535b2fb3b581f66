# `make` lists the targets. Every target works in a fresh clone: `env` does all the installing.
PROFILE ?= cpu
NAME ?= 01
ARGS ?=
PORT ?= 8000
BENCH ?= entropy quantizer sampling training loader collapse head lab pages
BIN := .venv/bin
STAMP := .venv/.installed
# The first suitable Python of these; `make env PYTHON=/path/to/python3.12` overrides.
PYTHON ?= python3 python3.13 python3.12 python3.11
SUITABLE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
# Tests see no network: every Python process, kernels included, loads the guard in this folder.
OFFLINE := PYTHONPATH=$(CURDIR)/tests/offline

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

env: $(STAMP) ## create .venv and install everything, Chromium for the browser checks included

$(STAMP): requirements.txt pyproject.toml
	@python=; for try in $(PYTHON); do \
	  if $$try -c '$(SUITABLE)' 2>/dev/null; then python=$$try; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "Python 3.11, 3.12 or 3.13 is needed, found none as: $(PYTHON). Say where: make env PYTHON=/path/to/python3.12" >&2; \
	  exit 1; fi; \
	[ -x $(BIN)/python ] && $(BIN)/python -c '$(SUITABLE)' || $$python -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@tests/book/chromium.sh
	@touch $(STAMP)

book: env ## execute every chapter (PROFILE=cpu) and build the book: build/cpu/html/index.html
	$(BIN)/python book/build.py $(PROFILE) $(ARGS)

pdf: env ## the same as one PDF, through Chromium: build/cpu/book.pdf
	$(BIN)/python book/build.py $(PROFILE) --pdf $(ARGS)

smoke: env ## the same in small, on the 8x8 digits, in a few minutes
	$(BIN)/python book/build.py smoke $(ARGS)

chapter: env ## one chapter alone: make chapter NAME=03 PROFILE=smoke ARGS="-p n_images 5000"
	$(BIN)/python book/build.py $(PROFILE) --only $(NAME) $(ARGS)

test: env ## lint, tests, smoke book, checks of its pages, chapters with other parameters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(OFFLINE) $(BIN)/python -m pytest -n 2 --dist loadfile
	$(OFFLINE) $(BIN)/python book/build.py smoke --pdf
	$(OFFLINE) $(BIN)/python -m pytest -m "book or rerun"

colab: env ## run a chapter as Colab would: an empty environment, this clone (10 minutes, 6 GB)
	$(BIN)/python book/launch.py check

# The oldest supported pair, without papermill, jupyter-book and a compiler.
PYTHON312 ?= python3.12
MINIMAL ?= build/minimal
minimal: ## the library alone: Python 3.12, torch 2.11, no compiler (PYTHON312=/path MINIMAL=folder)
	[ -x $(MINIMAL)/bin/python ] || $(PYTHON312) -m venv $(MINIMAL)
	$(MINIMAL)/bin/python -m pip install --quiet --disable-pip-version-check \
	  "torch==2.11.*" "torchvision==0.26.*" pytest pytest-timeout hypothesis \
	  vector-quantize-pytorch -e ".[models,images]"
	CC= CXX= PATH=$(CURDIR)/tests/no_compiler $(abspath $(MINIMAL))/bin/python -m pytest -q \
	  $(addprefix tests/test_,$(addsuffix .py,training commands distributed losses loaders pipeline cache \
	  quantizer tokenizer transformer autoregressive codes theory schedules entropy))

# An empty environment for the base install, another one for the tool that builds.
dist: ## wheel and sdist in build/dist, tried where torch is not (a minute)
	@rm -rf build/dist build/empty
	@[ -x build/packaging/bin/python ] || $(firstword $(PYTHON)) -m venv build/packaging
	build/packaging/bin/python -m pip install --quiet --disable-pip-version-check build
	build/packaging/bin/python -m build --outdir build/dist .
	$(firstword $(PYTHON)) -m venv build/empty
	build/empty/bin/python -m pip install --quiet --disable-pip-version-check build/dist/*.whl
	tests/first_minute.sh $(CURDIR)/build/empty/bin

serve: env ## show the built book (PROFILE=cpu) on http://127.0.0.1:8000
	@[ -f build/$(PROFILE)/html/index.html ] || { echo "no book yet: make book PROFILE=$(PROFILE)" >&2; exit 1; }
	$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory build/$(PROFILE)/html

bench: env ## side-by-side timings on an otherwise idle machine; one of them: make bench BENCH=sampling
	@set -e; for name in $(BENCH); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py $(ARGS); done

torture: env ## break it on purpose, up to an hour: make torture ARGS="--only kills --count 9"
	$(OFFLINE) $(BIN)/python -m torture $(ARGS)

clean: ## remove what was built (the environment and the cached stages stay)
	find build -mindepth 1 -maxdepth 1 ! -name cache -exec rm -rf {} + 2>/dev/null || true

.PHONY: help env book pdf smoke chapter test colab minimal dist serve bench torture clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
