# make venv | demo | test | lint | format | docs | bench | claim NAME=x [QUICK=1] | clean
# Every target makes .venv first when there is none; the second time that costs nothing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS := $(shell nproc 2>/dev/null || echo 2)
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(wildcard src/csrc/*)
CXX_FILES := $(wildcard src/csrc/*.cpp src/csrc/*.h)

export CMAKE_BUILD_PARALLEL_LEVEL ?= $(JOBS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint format docs bench claim clean

help:
	@sed -n '1,2s/^# //p' $(MAKEFILE_LIST)

venv: $(VENV)/.installed

# Editable: changes of .py files are seen at once. The stamp is older than a changed C++ file: then it is built again.
$(VENV)/.installed: $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'error: kvloom needs Python 3.11 or later' >&2; echo 'hint: make PYTHON=python3.12' >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: venv
	$(BIN)/python examples/demo.py

test: venv
	$(BIN)/python -m pytest -n $(JOBS) --maxprocesses 8 --dist worksteal

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo 'site/index.html'

bench: venv
	$(BIN)/python -m bench.claim speed $(if $(QUICK),--quick)

claim: venv
	@$(BIN)/python -m bench.claim $(NAME) $(if $(QUICK),--quick)

clean:
	rm -rf $(VENV) build site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests bench examples -name __pycache__ -type d -prune -exec rm -rf {} +
