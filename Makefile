# The template's own commands; a baked project has a Makefile of its own. `make` alone lists them.

PROJECT := <<cookiecutter.comp_name>>
PYTHON := .venv/bin/python
LOCKS := requirements/dev.lock $(PROJECT)/requirements/lock.txt
UV := uv==0.13.9
# One lock for every system and Python that is supported; where packages come from is each machine's affair.
COMPILE := $(PYTHON) -m uv pip compile --quiet --universal --python-version 3.11 \
	--no-emit-index-url --no-annotate --no-header

# The first Python that is new enough, can make an environment, and starts at all (the stand-in of a version
# manager may not). `make setup PY=/path/to/python` names another.
FITS := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PY ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c "$(FITS)" 2>/dev/null && echo $$python && break; done)

# Whatever the machine's locale, text is UTF-8 (a path may need it). Without a home folder that can be written,
# downloads are kept beside the environment; without the temporary folder that TMPDIR names, in the usual one.
export PYTHONUTF8 := 1
KEPT := $(shell { mkdir -p "$${XDG_CACHE_HOME:=$${HOME:?}/.cache}" && test -w "$$XDG_CACHE_HOME" && echo yes; } 2>/dev/null)
ifneq ($(KEPT),yes)
export XDG_CACHE_HOME := $(CURDIR)/.venv/cache
export MPLCONFIGDIR := $(XDG_CACHE_HOME)/matplotlib
endif
ifneq ($(shell test -w "$${TMPDIR:-/tmp}" && echo yes),yes)
unexport TMPDIR
endif

# One thread a process: here whole processes run side by side, and OpenMP's threads get in each other's way.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
# albumentations asks the network for a newer release on import unless told not to.
export NO_ALBUMENTATIONS_UPDATE := 1

# Under `make -j8` too: each of these takes all cores.
.NOTPARALLEL:

.PHONY: help setup demo test lint lock clean

help:
	@sed -n 's/^__version__ = "\(.*\)"/nntricks-comp \1/p' '$(PROJECT)/src/__init__.py'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: .venv/.ready ## make .venv and install the pinned requirements into it

demo: setup ## bake a competition of real digits, run all six stages on it, print the scores
	@$(PYTHON) demo/run.py $(ARGS)

test: setup ## test the template, and in a baked project that project (ARGS="-k hooks" for a part)
	@$(PYTHON) -m pytest $(ARGS)

# --config: the one at the root also for the project's folder, whose own is a template and not TOML yet.
lint: setup ## check the code's style and format, the project's included
	@$(PYTHON) -m ruff check --config pyproject.toml .
	@$(PYTHON) -m ruff format --check --config pyproject.toml .

lock: setup ## resolve requirements/*.in anew into the locks (ARGS=--upgrade for the newest)
	@$(COMPILE) '$(PROJECT)/requirements/base.in' '$(PROJECT)/requirements/dev.in' \
		--output-file '$(PROJECT)/requirements/lock.txt' $(ARGS)
	@$(COMPILE) '$(PROJECT)/requirements/kaggle-image.in' \
		--output-file '$(PROJECT)/requirements/kaggle.lock'
	@$(COMPILE) requirements/dev.in --constraints '$(PROJECT)/requirements/lock.txt' \
		--output-file requirements/dev.lock $(ARGS)

clean: ## remove what tests and the demo leave behind (.venv stays)
	@rm -rf build .pytest_cache .ruff_cache
	@find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment that is not marked as ready was never finished, and is begun again.
.venv/.ready: $(LOCKS)
	@test -e $@ || "$(PY)" -c "$(FITS)" 2>/dev/null || { \
		echo "Set-up needs Python 3.11 or newer with its venv module; found none that works (PY is '$(PY)')."; \
		echo "Install one, or name it: make setup PY=/path/to/python3"; exit 1; }
	@test -e $@ || "$(PY)" -m venv .venv
	@$(PYTHON) -c "import uv" 2>/dev/null || $(PYTHON) -m pip install --quiet $(UV)
	@$(PYTHON) -m uv pip install --compile-bytecode --python $(PYTHON) $(foreach lock,$(LOCKS),-r '$(lock)')
	@touch $@
