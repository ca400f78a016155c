# autodim. `make` lists the targets. Python 3.11, 3.12 or 3.13; another interpreter: make study PYTHON=python3.12

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PEERS  := .peers/exports
NB     ?=
# `make study` writes here
STUDY  := out/exp_table3.ipynb out/results/quick.csv out/figures/exp_table3.png

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help setup study peers test test-slow test-peers results site preview notebooks bench bench-peers clean front

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | awk -F ':.*## *' '{ printf "  make %-12s %s\n", $$1, $$2 }'

setup: $(STAMP)  ## make .venv with the pinned packages and this one

$(STAMP): requirements.txt setup.py settings.ini
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || \
	  { echo "autodim needs Python 3.11, 3.12 or 3.13, not $$($(PYTHON) -V 2>&1 | tail -n 1): make setup PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/pip || { echo "Making $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing the packages of requirements.txt (the first time a few minutes, PyTorch is large)"
	@$(BIN)/python -m pip install --quiet --requirement requirements.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --use-pep517 --editable .
	@touch $@

study: setup  ## Table III on the embedded synthetic data
	$(BIN)/papermill nbs/exp_table3.ipynb out/exp_table3.ipynb -f configs/quick.yaml
	@$(BIN)/python scripts/show_study.py table3 $(STUDY)

peers: setup  ## TorchRec, DeepCTR-Torch and FuxiCTR, in which the tests load the exports (Linux)
	@if test "$$(uname -s)" = Linux; then $(MAKE) --no-print-directory $(PEERS)/.installed; \
	  else echo "peers: FBGEMM is built for Linux alone; tests of the exports that need it are skipped here"; fi

$(PEERS)/.installed: requirements-peers.txt $(STAMP)
	@echo "Making $(PEERS) with the packages of requirements-peers.txt (about a minute)"
	@$(BIN)/python -m venv --clear $(PEERS)
	@# .venv's packages are seen behind its own: one PyTorch serves both
	@$(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $(PEERS)/site
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$(cat $(PEERS)/site)/venv.pth"
	@$(PEERS)/bin/python -m pip install --quiet --no-deps --no-compile --requirement requirements-peers.txt
	@touch $@

test: setup  ## the house, every notebook, pytest: minutes
	$(BIN)/pytest --quiet -m house tests/test_house.py
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --do_print --n_workers 2
	OMP_NUM_THREADS=1 $(BIN)/pytest --quiet --numprocesses 2 --dist loadgroup -m 'not house and not slow and not peers' tests

test-slow: setup  ## random kills, races, full disks, a wheel in an empty environment, the pages in Chromium
	OMP_NUM_THREADS=1 $(BIN)/pytest --quiet --numprocesses 2 --dist loadgroup -m slow tests

test-peers: setup peers  ## the exports in TorchRec, FBGEMM, DeepCTR-Torch and FuxiCTR (1.7 GB, once)
	OMP_NUM_THREADS=1 $(BIN)/pytest --quiet -m peers tests

bench: setup  ## speed on this machine, as ratios; minutes, best on an idle machine
	$(BIN)/papermill nbs/exp_speed.ipynb out/exp_speed.ipynb -y 'parts: [steps, growth, frequency, backbones]'
	@$(BIN)/python scripts/show_study.py speed out/exp_speed.ipynb out/results/speed.csv out/figures/exp_speed.png

bench-peers: setup  ## whole fits of DeepCTR-Torch, FuxiCTR and torch-rechub against ours, in environments of their own
	$(BIN)/python scripts/bench_peers.py

notebooks: setup  ## run the notebooks in place and clean them; NB=nbs/method/00_lookup.ipynb for some
	@$(BIN)/python scripts/run_notebooks.py $(NB)

results: setup  ## draw all experiments from the committed rows: figures/, results/claims.csv, the front pages
	@rm -f out/figures/exp_*.png
	@$(BIN)/python scripts/run_notebooks.py nbs/exp_*.ipynb
	@cp out/figures/exp_*.png figures/ && cp out/results/claims.csv results/
	@$(BIN)/python scripts/run_notebooks.py nbs/guide_settings.ipynb
	@$(MAKE) --no-print-directory front

front: setup  ## README, index, questions, gallery and reference pages anew, after new rows, settings, names or messages
	@$(BIN)/python scripts/run_notebooks.py $(addprefix nbs/,$(addsuffix .ipynb,index faq gallery ref_api ref_cli ref_errors ref_settings))
	@cp out/figures/index.png figures/
	@$(BIN)/python scripts/write_readme.py

site: setup  ## the site in _site/, with Quarto
	@command -v quarto >/dev/null || \
	  { echo "The site needs Quarto: https://quarto.org/docs/get-started/ (without it: make preview)" >&2; exit 1; }
	QUARTO_PYTHON=$(abspath $(BIN)/python) quarto render
	@$(BIN)/pytest --quiet tests/test_site.py -k of_quarto

preview: setup  ## the same pages in _preview/, without Quarto
	@$(BIN)/python scripts/preview.py

clean:  ## remove what can be made again (not .venv, not downloaded data)
	rm -rf _site _preview _docs _proc .quarto build *.egg-info .pytest_cache
	find out -mindepth 1 ! -name .gitignore -delete
	find autodim nbs scripts tests -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
