# `make demo` and `make test` create .venv and install what they need on the first call; later calls start at once.
# Another interpreter: make test PYTHON=python3.12      Another place for the environment: make test VENV=/tmp/venv
# The documentation as a site: make docs      (writes build/site, installs its tools into .venv-docs)
# The notebook run again on this machine, its outputs kept: make notebook
# More processes for the tests, of up to 4 GB each: make test JOBS=8

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(SUPPORTED)' >/dev/null 2>&1 && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS := .venv-docs# apart: its tools need nothing of the library, only its source
JOBS ?= 2# processes for the tests

.PHONY: demo test format docs notebook clean

demo: $(STAMP)
	$(BIN)/python -m experiments.demo

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --project . --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DOCS)/.installed
	$(DOCS)/bin/mkdocs build
	@echo "build/site/index.html"

notebook: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[notebook]'
	mkdir -p build/notebook
	cp notebooks/se_jax_colab.ipynb build/notebook
	$(BIN)/jupyter execute --inplace build/notebook/se_jax_colab.ipynb
	cp build/notebook/se_jax_colab.ipynb notebooks

$(DOCS)/.installed: pyproject.toml
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
		| $(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r /dev/stdin
	touch $@

$(STAMP): requirements-dev.txt pyproject.toml
	@$(or $(PYTHON),false) -c '$(SUPPORTED)' || { \
		echo "se_jax needs Python 3.11 to 3.13; '$(PYTHON)' is not one. Name one that is: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; \
		exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $(STAMP)

clean:
	rm -rf $(VENV) $(DOCS) build dist *.egg-info
