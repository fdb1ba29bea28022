# GeometricLedger. Every target sets .venv up first, if it is not what requirements.lock says.
# Paths are relative, so that the folder may have any name. PYTHON=... picks the interpreter for the set-up.

.DEFAULT_GOAL := help
.PHONY: help setup report test test-all crash fuzz bench-check lint format lab lock hooks clean
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV

EXPERIMENTS = capacity hugepages prefetch durability
PROFILE = quick
SECONDS = 600
ARGS =
COMPILE = .venv/bin/python -m uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock" --quiet
RUN = . tools/home.sh && exec .venv/bin/python -m

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv what requirements.lock says (nothing to do: returns at once)
	@sh tools/setup.sh

report: setup ## run the experiments; the last line is the path of the page (PROFILE=quick|standard|full)
	@$(RUN) experiments run $(EXPERIMENTS) --profile $(PROFILE)

test: lint ## the linter, then the fast tests (ARGS='-k name' picks some)
	@. tools/home.sh && .venv/bin/python tools/compile_kernels.py
	@$(RUN) pytest -n 2 --dist loadfile -m "not slow and not speed" $(ARGS)

test-all: lint ## the linter, then all tests, then the kernels' own with bounds checked
	@. tools/home.sh && .venv/bin/python tools/compile_kernels.py
	@. tools/home.sh && .venv/bin/python -m pytest -m "not speed" $(ARGS)
	@. tools/home.sh && NUMBA_BOUNDSCHECK=1 exec .venv/bin/python -m pytest tests/kernels $(ARGS)

crash: setup ## power cuts, kills, failing disks and damage by the thousand (ARGS=--quick: a tenth of it)
	@$(RUN) tests.crash $(ARGS)

fuzz: setup ## give parsers bytes that nobody wrote, SECONDS=600 for each; Linux on x86-64
	@sh tools/fuzz.sh --seconds $(SECONDS) $(ARGS)

bench-check: setup ## is the working tree slower than HEAD? (ARGS='--against COMMIT')
	@$(RUN) experiments bench $(ARGS)

lint: setup ## what the linter and the formatter find
	@$(RUN) ruff check
	@$(RUN) ruff format --check

format: setup ## mend what the linter and the formatter can
	@$(RUN) ruff check --fix
	@$(RUN) ruff format

lab: setup ## open the notebooks in JupyterLab
	@root=; [ "$$(id -u)" != 0 ] || root=--allow-root; $(RUN) jupyterlab $$root $(ARGS) notebooks/00-tour.ipynb

lock: setup ## renew the lock files and environment.yml from pyproject.toml (ARGS=--upgrade for newest versions)
	@. tools/home.sh && $(COMPILE) pyproject.toml --extra workbench --extra baselines --extra dev $(ARGS) -o requirements.lock
	@. tools/home.sh && $(COMPILE) --group fuzz --no-build $(ARGS) -o requirements-fuzz.lock
	@. tools/home.sh && .venv/bin/python tools/conda_environment.py
	@sh tools/setup.sh

hooks: setup ## check each commit before it is made (pre-commit)
	@$(RUN) pre_commit install

clean: ## remove .venv and all caches; results stay
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis build dist
	find ledger experiments tests tools -name __pycache__ -prune -exec rm -rf {} +
