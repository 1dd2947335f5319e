# `make report` and `make test` set up what they need: a virtual environment in .venv
# with the locked packages, renewed when the lock or pyproject.toml changes.

PYTHON ?= python3
STUDY ?=
DATASET ?=
ENCODER ?=

BIN := .venv/bin
READY := .venv/ready

# snakemake, papermill and jupyter are called by name, and the kernel "python3" has to
# be the environment's own: a user's kernel of that name must not get in front of it.
IN_VENV = PATH="$(CURDIR)/$(BIN):$$PATH" JUPYTER_PATH="$(CURDIR)/.venv/share/jupyter"

.PHONY: help report study publish rebuild benchmark test campaign labtest sample lab lint lock

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile

report: $(READY) ## run the quick study on the bundled vectors and render its report
	@$(IN_VENV) $(BIN)/python -m lvmlib quick

study: $(READY) ## run any study: make study STUDY=reference DATASET=/path/to/vectors
	@if [ -z "$(STUDY)" ]; then \
	  echo "Name a study of parameters/, such as: make study STUDY=reference" >&2; exit 1; fi
	@$(IN_VENV) $(BIN)/python -m lvmlib "$(STUDY)" --dataset "$(DATASET)"

publish: $(READY) ## copy a study's finished runs, small files only, to reports/: make publish STUDY=reference
	@$(IN_VENV) $(BIN)/python -m lvmlib.publish "$(STUDY)"

# Needs no vectors and trains nothing: reports/<study>/runs is all that is read.
rebuild: $(READY) ## render reports/<study>/index.html from the committed runs: make rebuild STUDY=reference
	@$(IN_VENV) $(BIN)/python -m lvmlib.publish "$(STUDY)" --render

benchmark: $(READY) ## measure speed, memory and latency here (25 minutes on an idle machine)
	@mkdir -p reports/benchmark
	@OMP_NUM_THREADS=1 $(BIN)/python notebooks/benchmark/measuring.py reports/benchmark/latency.csv
	@$(IN_VENV) $(BIN)/papermill -k python3 --log-output notebooks/benchmark/benchmark.ipynb \
	  reports/benchmark/benchmark.ipynb -p dataset "$(DATASET)" -p size 7000 \
	  -p rounds 10 -p seconds 0.4 \
	  -p architectures "amn lstm gru transformer graphmert" \
	  -p variants "fused gather batch128 batch256 bf16 layers usual bare all malloc" \
	  -p quality_architectures "amn lstm gru" -p quality_size 5000 \
	  -p quality_epochs 12 -p quality_seeds 3 -p largest 1000000 -p threads 0 \
	  -p output reports/benchmark/benchmark.json
	@$(IN_VENV) $(BIN)/jupyter nbconvert --to lvm_report --output index \
	  reports/benchmark/benchmark.ipynb

# The notebooks that need a kernel of their own; tests/test_notebooks.py runs all others.
KERNELS = data explore

# Few, long tests come first and in order: xdist would leave them to the end.
test: $(READY) ## run all tests and all notebooks (their runs go to a temporary folder)
	@runs=$$(mktemp -d) && trap 'rm -rf "$$runs"' EXIT && \
	$(IN_VENV) LVM_RUNS="$$runs" OMP_NUM_THREADS=1 $(BIN)/python -m pytest \
	  tests/test_end_to_end.py $(KERNELS:%=notebooks/%.ipynb) notebooks/benchmark tests \
	  -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder \
	  --nbval-lax --nbval-current-env --nbval-cell-timeout=300

campaign: $(READY) ## kill, starve and mislead it 200 times (a quarter of an hour), log in reports/campaign
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(IN_VENV) PYTHONPATH=tests $(BIN)/python tests/campaign.py 200 "$$folder/campaign"

labtest: $(READY) ## explore.ipynb in a real JupyterLab, pages by axe-core (needs Debian's chromium)
	@$(BIN)/pip install -qq --disable-pip-version-check -e ".[labtest]"
	@$(IN_VENV) $(BIN)/python tests/lab.py

sample: $(READY) ## rebuild the bundled vectors (ENCODER=folder of all-mpnet-base-v2, if offline)
	@$(IN_VENV) $(BIN)/python notebooks/measured/sample.py $(ENCODER)

lab: $(READY) ## open the notebooks in JupyterLab
	@$(IN_VENV) $(BIN)/jupyter lab

lint: $(READY) ## format the code and fix what the linter can fix
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

# Plain versions, one lock for all platforms: torch itself pins its CUDA packages, and
# what the oldest Python can use the newer ones can too
# (soupsieve 3 refuses Python 3.11.0 to 3.11.4, which Debian 12 has).
lock: $(BIN)/pip ## write requirements.lock anew, with the newest versions allowed
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] > (3, 11) and \
	  "The lock is for the oldest Python too: remove .venv, PYTHON=python3.11.")'
	@$(BIN)/pip install -qq pip-tools
	@CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --upgrade \
	  --upgrade-package "soupsieve<3" \
	  --extra test --build-deps-for editable --allow-unsafe --strip-extras \
	  --no-emit-options --annotation-style line \
	  --output-file requirements.lock pyproject.toml
	@sed -E -e '/^(nvidia|cuda|triton)|considered to be unsafe/d' \
	  -e 's/^(torch==[0-9.]+)\+cpu/\1    /' requirements.lock > .venv/lock
	@mv .venv/lock requirements.lock

$(READY): requirements.lock pyproject.toml | $(BIN)/pip
	@echo "Installing the locked packages into .venv (a few minutes, only once) ..."
	@$(BIN)/pip install -qq --disable-pip-version-check -r requirements.lock
	@$(BIN)/pip install -qq --disable-pip-version-check \
	  --no-deps --no-build-isolation --editable .
	@touch $@

$(BIN)/pip:
	@command -v "$(PYTHON)" > /dev/null || { \
	  echo "$(PYTHON) is not there: install Python 3.11 or newer." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info[:2]; \
	  sys.exit(not (3, 11) <= v <= (3, 13) and "$(PYTHON) is Python %d.%d, but the \
	locked packages need 3.11 to 3.13: name one, as in make test PYTHON=python3.11" % v)'
	@"$(PYTHON)" -c 'import ensurepip' 2> /dev/null || { \
	  echo "$(PYTHON) lacks venv: install it (Debian: apt install python3-venv)." >&2; \
	  exit 1; }
	@"$(PYTHON)" -m venv .venv
