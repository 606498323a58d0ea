# Two commands do everything: `make demo` and `make test`. Each sets up what it needs; a second call starts at once.
PYTHON_BIN := .venv/bin

.PHONY: help setup demo test test-slow chaos check bench bench-pretraining bench-few-shot bench-logra bench-vqa-rad bench-memory bench-probes bench-solvers bench-setup clean

help:  ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

setup:  ## a .venv with everything that demo and test need
	@scripts/setup.sh

demo: setup  ## real medical images -> corpus on an S3 server of its own -> LVM-Med on 2 workers -> probe -> report.html
	@$(PYTHON_BIN)/python jobs/demo.py

test: setup  ## the tests, two files at a time, under 12 minutes on 2 cores
	@OMP_NUM_THREADS=1 $(PYTHON_BIN)/pytest -q -n 2 --dist loadfile

test-slow: setup  ## the tests that take whole runs
	@$(PYTHON_BIN)/pytest -q -m slow

chaos: setup  ## the tests that kill processes
	@$(PYTHON_BIN)/pytest -q -m chaos

check: setup  ## static: format, lint, floors, types
	@$(PYTHON_BIN)/ruff format --check --quiet .
	@$(PYTHON_BIN)/ruff check --quiet .
	@$(PYTHON_BIN)/lint-imports --no-cache
	@$(PYTHON_BIN)/python scripts/doors.py
	@$(PYTHON_BIN)/mypy --no-error-summary

bench: bench-setup  ## images per second: the stream beside three others, `medalign train` beside a plain script
	@test -d corpora/demo || { echo "corpora/demo is missing: run make demo first." >&2; exit 2; }
	@$(PYTHON_BIN)/python bench/throughput.py --train corpora/demo

bench-memory: setup  ## memory of a run as its corpus grows tenfold
	@$(PYTHON_BIN)/python bench/memory.py

bench-probes: setup  ## what pretraining brings on two real sets, over seeds
	@$(PYTHON_BIN)/python bench/probes.py --data "$${DATA:?give DATA=FOLDER, see bench/probes.py}"

bench-pretraining: setup  ## LVM-Med, its ablations and other objectives on three small real sets, over seeds
	@OMP_NUM_THREADS=1 $(PYTHON_BIN)/python bench/pretraining_comparison.py --data "$${DATA:?give DATA=FOLDER, see bench/pretraining_comparison.py}"

bench-few-shot: setup  ## few-shot methods on five small real sets, over seeds
	@$(PYTHON_BIN)/python bench/few_shot.py --data "$${DATA:?give DATA=FOLDER, see bench/few_shot.py}"

bench-logra: setup  ## LoGra-Med beside its baselines on real images, over seeds
	@OMP_NUM_THREADS=1 $(PYTHON_BIN)/python bench/logra_arms --data "$${DATA:?give DATA=FOLDER, see bench/logra_arms}"

bench-vqa-rad: setup  ## VQA-RAD itself: a small model fine-tuned and scored beside the floors, on two splits
	@$(PYTHON_BIN)/python bench/vqa_rad.py --data "$${DATA:?give DATA=FOLDER, see bench/vqa_rad.py}"

bench-few-shot-tuned: setup  ## the same at 4 shots, every method tuned alike within each support
	@$(PYTHON_BIN)/python bench/few_shot.py --recipe few_shot/tuned --data "$${DATA:?give DATA=FOLDER, see bench/few_shot.py}"

bench-few-shot-ablations: setup  ## what each part of Dude is worth, and its controls
	@$(PYTHON_BIN)/python bench/few_shot.py --recipe few_shot/ablations --data "$${DATA:?give DATA=FOLDER, see bench/few_shot.py}"

bench-few-shot-stress: setup  ## Dude's couplings where test images are pasted over or cropped
	@$(PYTHON_BIN)/python bench/few_shot_stress.py --data "$${DATA:?give DATA=FOLDER, see bench/few_shot.py}"

bench-few-shot-speed: setup  ## Dude's training time, the transport's share of a step, memory at 1,000 classes
	@$(PYTHON_BIN)/python bench/few_shot_speed.py

bench-setup: setup
	@scripts/setup.sh bench

bench-solvers: bench-setup  ## the solvers beside their peers, on one core; writes docs/benchmarks.md
	@$(PYTHON_BIN)/python bench/solvers --write docs/benchmarks.md

clean:  ## runs, corpora and caches of this checkout
	rm -rf runs corpora .pytest_cache .ruff_cache .mypy_cache
