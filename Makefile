# Two commands do everything on a machine with Python 3.11+, make and git: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 3
# Demo and tests start many interpreters: without compiled files each compiles perfkit anew
unexport PYTHONDONTWRITEBYTECODE

# $(call install,EXTRAS): perfkit with these extras into .venv, with uv when it is there
define install
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "perfkit needs Python 3.11 or newer; say: make PYTHON=/path/to/python3.11 ...")'
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && uv pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[$(1)]'; \
	else \
		$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(1)]'; \
	fi
	@touch $@
endef

.PHONY: setup demo test test-all check bench gallery docs lab plotlyjs clean help

help:           ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 12

setup: $(VENV)/.developer ## make .venv with everything in it

$(VENV)/.demo: pyproject.toml
	@echo "make: installing perfkit and what its demo needs into $(VENV); once, in about a minute"
	$(call install,demo)

$(VENV)/.lab: pyproject.toml
	@echo "make: installing perfkit and JupyterLab into $(VENV); once, in about a minute"
	$(call install,lab)

$(VENV)/.developer: pyproject.toml
	@echo "make: installing perfkit, all its extras and the developers' tools into $(VENV); once, in a minute or two"
	$(call install,demo$(COMMA)lab$(COMMA)s3$(COMMA)dask$(COMMA)chat$(COMMA)dev)

COMMA := ,

demo: $(VENV)/.demo ## run load on three small services, slow one down, find it, write the report
	@echo "make: running the demo: eight load tests of ten seconds, the comparison and its report; about two minutes"
	@$(BIN)/perfkit demo

test: setup     ## the tests, in minutes
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not slow and not alone" tests
	$(BIN)/python -m pytest -m "alone and not slow" tests

test-all: setup ## the tests with the slow calibrations
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not alone" tests
	$(BIN)/python -m pytest -m alone tests

check: setup    ## format, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

plotlyjs: setup ## fetch the plotly.js of the reports from npm again, in the version that the installed plotly has
	@set -e; version=$$($(BIN)/python -c 'from plotly.offline import get_plotlyjs_version as v; print(v())'); \
	folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; cd "$$folder"; \
	npm pack --silent "plotly.js-basic-dist-min@$$version" >/dev/null; tar -xzf *.tgz; \
	gzip -9nc package/plotly-basic.min.js > "$(CURDIR)/perfkit/report/plotlyjs/plotly-basic.min.js.gz"; \
	cp package/LICENSE "$(CURDIR)/perfkit/report/plotlyjs/LICENSE"; \
	echo "make: perfkit/report/plotlyjs has plotly.js $$version"

bench: setup    ## measure the numbers in benchmarks/README.md
	$(BIN)/python benchmarks/recorder_overhead.py --slices
	$(BIN)/python benchmarks/recorder_overhead.py --memory
	$(BIN)/python benchmarks/open_model.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/report_time.py
	$(BIN)/python benchmarks/store.py

gallery: setup  ## simulate the runs in data/gallery anew, byte for byte
	$(BIN)/python data/gallery/make_gallery.py

docs: setup     ## the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

lab: $(VENV)/.lab ## open the notebooks in JupyterLab
	$(BIN)/perfkit lab

clean:          ## remove what was made, but no runs and no reports
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
