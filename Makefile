# Thin: each target says what it runs. Presets are in CMakePresets.json, docs/quality.md explains the rest.
JOBS ?= $(shell nproc)
BASE ?= $(shell git merge-base origin/main HEAD 2>/dev/null || git rev-parse --verify -q HEAD~1)
CHANGED = $(shell git diff --name-only --diff-filter=d $(BASE) -- '*.h' '*.cc' '*.cu' 2>/dev/null)
# WERROR=ON makes errors of our own warnings.
BUILD = cmake --preset $(1) $(if $(WERROR),-DKVLINK_WERROR=$(WERROR)) >/dev/null && cmake --build build/$(1) -j $(JOBS) --target $(2)
TEST_JOBS ?= $(shell echo $$(( 2 * $(JOBS) )))

# Clones in other folders share one compiler cache.
export CCACHE_BASEDIR := $(CURDIR)
export CCACHE_NOHASHDIR := 1
# So that what is compiled with a precompiled header is cached.
export CCACHE_SLOPPINESS := pch_defines,time_macros
# Without a run of the preprocessor for each file that is not cached.
export CCACHE_DEPEND := 1

.PHONY: deps release debug demo demo-cluster demo-serve quick test annotations release-build release-tests asan-build asan tsan-build tsan fuzz fuzz-build cuda-check bench soak format check-format lint clean

release:
	$(call BUILD,release,all)

# -Og -g, assertions on: for a debugger.
debug:
	$(call BUILD,debug,all)

deps:
	deploy/install-deps.sh $(DEPS)

# The model reads documents once and answers from their encodings, beside a full prefill.
demo: deps
	$(call BUILD,release,kvlink)
	deploy/demo/run.sh

# etcd, PostgreSQL and three nodes on this machine: one is killed and refilled, one drained, while answers keep coming.
demo-cluster: deps
	$(call BUILD,release,kvlink)
	deploy/demo/cluster.sh

# The demo's documents behind OpenAI's and Anthropic's APIs, until ^C.
demo-serve: deps
	$(call BUILD,release,kvlink)
	deploy/demo/serve.sh

# What a change needs before it is shown: format, layers, and the tests of the folders that it touches, without the slow ones.
quick: check-format
	python3 tests/layers/layers_test.py .
	BASE=$(BASE) JOBS=$(JOBS) tests/quick.sh

test: DEPS = --train
test: deps check-format
	JOBS=$(JOBS) MAKE=$(MAKE) tests/stages.sh

# All tests but those that both sanitizers run (`make test` is for two cores); `make release` and ctest run these as well.
release-tests: release-build
	tests/run.sh release $(TEST_JOBS) -LE tsan

release-build:
	$(call BUILD,release,release_tests)

# The locks, as the annotations of base/mutex.h say them, checked by clang in all code that has some; nothing is generated.
annotations:
	cmake --preset release >/dev/null && cmake --build build/release -j $(JOBS) --target generated_headers
	python3 tests/annotations.py build/release $(JOBS)

# AddressSanitizer and UndefinedBehaviorSanitizer over all tests but those labelled slow.
asan: asan-build
	LSAN_OPTIONS="suppressions=$(CURDIR)/tests/lsan.supp print_suppressions=0" tests/run.sh asan $(TEST_JOBS) -L asan

asan-build:
	$(call BUILD,asan,asan_tests)

# history_size: a report without both its stacks is not recognized by the suppressions.
# ThreadSanitizer over the tests of the parts that have threads: transport, etcd, store, integration, ingest, infer, serve.
tsan: tsan-build
	OMP_NUM_THREADS=1 TSAN_OPTIONS="suppressions=$(CURDIR)/tests/tsan.supp halt_on_error=1 second_deadlock_stack=1 history_size=7" tests/run.sh tsan $(TEST_JOBS) -L tsan

tsan-build:
	$(call BUILD,tsan,tsan_tests)

# Every fuzzer for FUZZ_SECONDS, from its corpus, which it repeats first.
FUZZ_SECONDS ?= 5
fuzz: fuzz-build
	tests/fuzz/run.sh $(FUZZ_SECONDS)

fuzz-build:
	$(call BUILD,fuzz,fuzzers)

# The CUDA backend compiled for each architecture, what its kernels take, and that those of attention and decoding do not spill.
NVCC ?= $(firstword $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc))
cuda-check:
	@if [ -z "$(NVCC)" ]; then echo "cuda-check: skipped, there is no nvcc"; \
	else $(call BUILD,cuda,kvlink_kernels_cuda) && python3 tests/kernels/cuda_report.py . $(NVCC); fi

bench:
	$(call BUILD,release,all)
	bench/run.sh

# All tests with their long counts, then every fuzzer for ten minutes. Goes on where it stopped; KVLINK_SEED starts elsewhere.
soak:
	$(call BUILD,release,all)
	$(call BUILD,fuzz,fuzzers)
	tests/soak.sh

format:
	git ls-files -co --exclude-standard '*.h' '*.cc' '*.cu' | xargs clang-format -i

# Of the files that differ from main (or from the commit before). Only clang-format 14 is asked: others format differently.
check-format:
	@if [ -z "$(CHANGED)" ]; then echo "format: nothing changed"; \
	elif clang-format --version | grep -q 'version 14\.'; then clang-format --dry-run -Werror $(CHANGED) && echo "format: ok"; \
	else echo "format: not checked, needs clang-format 14"; fi

lint:
	$(call BUILD,debug,generated_headers)
	@if [ -z "$(filter %.cc,$(CHANGED))" ]; then echo "lint: nothing changed"; \
	else clang-tidy -p build/debug --quiet $(filter %.cc,$(CHANGED)); fi

clean:
	rm -rf build .cache/demo-store
