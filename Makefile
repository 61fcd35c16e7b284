# `make demo` and `make test` need nothing but python3 and make: each first brings .venv
# up to date, with the versions that requirements.txt locks.

PYTHON ?= python3
OUT ?= demo_out
# More arguments for pytest: make test ARGS="-n 0 -k coord_attention"
ARGS ?=

NIGHTLY := nightly-3.12 nightly-3.13
# The other backends, and what TensorFlow computes, for them to be compared with.
BACKENDS := jax torch
NUMBERS := build/backends/tensorflow.npz
# XLA compiles for each shape that it meets: on JAX few of them, see tests/layers.
PROFILE_jax ?= few
PROFILE_torch ?=

# Nothing is read from or written to the home directory: a keras.json there could name
# another backend than the one that is tested.
export KERAS_HOME := $(CURDIR)/.cache/keras
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib
export KERAS_BACKEND := tensorflow

.PHONY: help demo test lint nightly $(NIGHTLY) benchmark benchmark-photos int8-table
.PHONY: benchmark-training
.PHONY: lock clean venv
.PHONY: test-backends $(BACKENDS:%=test-%) $(BACKENDS:%=venv-%) numbers

help:
	@echo "make demo       digits to a verified int8 .tflite, in $(OUT) (OUT=...)"
	@echo "make test       the test suite (ARGS=... for pytest)"
	@echo "make test-backends  the layers on JAX and on PyTorch (ARGS=... for pytest)"
	@echo "make lint       ruff: rules and format"
	@echo "make benchmark  what the blocks cost on the CPU, how exact int8 is; writes docs"
	@echo "make benchmark-photos PHOTOS=...  pretrained networks on photos, float and int8"
	@echo "make benchmark-training  input pipeline, train step, scaling on paper"
	@echo "make int8-table  every block in four backbones as int8 files; hours"
	@echo "make nightly    Python 3.12 and 3.13, then the suite with more examples"
	@echo "make lock       newest allowed versions into requirements.txt"
	@echo "make clean      removes environments, caches, demo_out and photos_out"
	@echo "PYTHON=... names the Python that .venv is made with"

demo: venv
	.venv/bin/keras-attention demo --out "$(OUT)"

test: venv
	.venv/bin/python -m pytest $(ARGS)

test-backends: venv
	$(MAKE) --no-print-directory -j2 $(BACKENDS:%=venv-%)
	$(MAKE) --no-print-directory -j1 $(BACKENDS:%=test-%)

numbers: venv
	TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python tests/backends/cases.py $(NUMBERS)

$(BACKENDS:%=test-%): test-%: venv-% numbers
	KERAS_BACKEND=$* HYPOTHESIS_PROFILE=$(PROFILE_$*) TENSORFLOW_NUMBERS=$(NUMBERS) \
	.venv-$*/bin/python -m pytest tests/layers tests/backends $(ARGS)

$(BACKENDS:%=venv-%): venv-%:
	@$(PYTHON) tools/make_venv.py $*

lint: venv
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

benchmark-photos: venv
	.venv/bin/python benchmarks/finetuning.py "$(PHOTOS)" --write docs/finetuning.md
	.venv/bin/python benchmarks/real_weights.py "$(PHOTOS)" --write docs/int8.md
	.venv/bin/python benchmarks/against_tfmot.py "$(PHOTOS)" --write docs/int8.md

benchmark: venv
	.venv/bin/python benchmarks/coord_attention_overhead.py
	.venv/bin/python benchmarks/blocks.py --write docs/blocks.md
	.venv/bin/python benchmarks/exactness.py --write docs/int8.md

# On a GPU: benchmarks/gpu.py, with JAX and PyTorch (docs/scaling.md).
benchmark-training: venv
	.venv/bin/python benchmarks/input_pipeline.py
	.venv/bin/python benchmarks/train_step.py --write docs/scaling.md
	.venv/bin/python benchmarks/scaling.py --write docs/scaling.md

# Goes on where it was stopped; what is done is kept in build/int8_table.json.
int8-table: venv
	.venv/bin/python benchmarks/int8_table.py --write docs/int8.md $(ARGS)

nightly: $(NIGHTLY) venv
	HYPOTHESIS_PROFILE=nightly .venv/bin/python -m pytest $(ARGS)

# An environment of its own for that Python; it is an error if there is none.
$(NIGHTLY): nightly-%:
	$(PYTHON) tools/make_venv.py $*
	.venv-$*/bin/python -m pytest -n 0 -m nightly -s tests/nightly

venv:
	@$(PYTHON) tools/make_venv.py

# Runs in .venv because it needs Python 3.11 itself.
lock: venv
	.venv/bin/python tools/lock.py

clean:
	rm -rf .venv .venv-* .cache .hypothesis .pytest_cache .ruff_cache
	rm -rf build dist demo_out photos_out *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
