# The README's commands, CI and the pre-commit hook all call these targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODELS := model/efficientnet_lite0/1 model/digits/1
HOST ?= 127.0.0.1
PORT ?= 8500
ROUNDS ?= 3
SECONDS ?= 8
# Tests run in two processes, since many of them wait for a third; files in their order, in which the long ones come first.
TWO := -n 2 --no-loadscope-reorder
COMPILED := build/compiled/bin/darkroom
IS_COMPILED = [ -x $(COMPILED) ] && [ -z "$$(find setup.py pyproject.toml batching models service \( -name '*.py' -o -name pyproject.toml \) -newer $(COMPILED) -print -quit)" ]
CAN_COMPILE = { command -v $${CC:-cc} >/dev/null && \
  [ -e "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]; }
# `make image`: the time of the commit, not of the build, so that one commit makes one image.
IMAGE ?= darkroom
TARGET ?= server
VERSION := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
REVISION = $$(git describe --always --abbrev=40 --dirty --exclude '*')
COMMITTED = $$(git show --no-patch --format=%cI)
FUZZ_SECONDS ?= 3600
MINUTES ?= 30
# A server and what is compared with it allocate by jemalloc where it is installed (Debian: libjemalloc2), as the image does.
JEMALLOC := $(shell PATH=$$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null | grep -o 'libjemalloc\.so\.2' | head -n 1)
JEMALLOC_CONF := dirty_decay_ms:-1,oversize_threshold:0
WITH_JEMALLOC := $(if $(JEMALLOC),env LD_PRELOAD="$(JEMALLOC) $$LD_PRELOAD" MALLOC_CONF="$${MALLOC_CONF:-$(JEMALLOC_CONF)}")

.DEFAULT_GOAL := help
.PHONY: help image serve compiled compiled-once models test test-compiled check format lint types fast coverage docs hostile shapes faults faults-short soak mutants fuzz clean requirements bench has-wrk load

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The first time, the request path is compiled while the models are built, so that what is measured is what the image does.
serve: $(VENV)/models.done  ## set up if need be, then serve EfficientNet-Lite0 on 127.0.0.1:8500; compiled, if there is a C compiler
	@$(MAKE) --no-print-directory -j 2 compiled-once $(MODELS)
	@server=$(BIN)/darkroom; if $(IS_COMPILED); then server=$(COMPILED); fi; \
	  exec $(WITH_JEMALLOC) $$server serve --host=$(HOST) --port=$(PORT) --model_base_path=model/efficientnet_lite0

# Never fails, and never compiles twice: who changes the code need not wait a minute for each start.
compiled-once: | $(VENV)/models.done
	@if $(IS_COMPILED); then :; \
	elif [ -x $(COMPILED) ]; then \
	  echo "the code has changed since it was compiled: it is served interpreted (make compiled brings it up to date)"; \
	elif ! $(CAN_COMPILE); then \
	  echo "no C compiler, or no Python headers: served interpreted, which takes a third more CPU a request (Debian: gcc, python3-dev)"; \
	elif ! $(MAKE) --no-print-directory $(COMPILED); then echo "it could not be compiled: it is served interpreted"; fi

compiled: $(COMPILED)  ## compile the request path (takes one to three minutes and a C compiler; a third less CPU a request)
	@$(COMPILED) --version

models: $(MODELS)  ## build the models that ship, into model/

test: $(VENV)/dev.done $(MODELS) .bench/grpc-clients.done .bench/tensorflow-serving-api.done .bench/axe.done .bench/release.done  ## set up if necessary, then run all tests
	$(BIN)/python -m pytest $(TWO)

# The tests that use the request path: scheduler, dialects, whole servers; not the other commands, the wheel, stores,
# folders and allocators, clients that are generated, or the bugs that are put into a copy of the source.
test-compiled: $(COMPILED) $(MODELS)  ## run the tests of the request path on the compiled modules
	PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/compiled EXPECT_COMPILED=1 \
	  $(BIN)/python -m pytest $(TWO) -o "pythonpath=build/compiled ." tests/meta/test_compiled.py tests/unit/batching \
	  tests/unit/service tests/unit/models/test_rows.py tests/unit/models/engines/test_runner.py \
	  tests/unit/models/profile/test_trial.py tests/property tests/wire tests/integration \
	  --ignore-glob='*_command*.py' --ignore=tests/integration/test_custom_op.py --ignore=tests/integration/test_wheel.py \
	  --ignore=tests/integration/test_stores.py --ignore=tests/integration/test_repository.py \
	  --ignore=tests/integration/test_allocator.py --ignore=tests/wire/test_generate.py \
	  --ignore=tests/property/test_field_bugs.py

check: format lint types fast  ## everything a commit must pass: format, lint, types, fast tests

format: $(VENV)/dev.done  ## check the formatting
	$(BIN)/ruff format --check .

lint: $(VENV)/dev.done  ## run ruff with all rules
	$(BIN)/ruff check .

types: $(VENV)/dev.done  ## run mypy, strict
	$(BIN)/mypy

fast: $(VENV)/dev.done  ## run the tests that need no process, no training and no browser
	$(BIN)/python -m pytest -m "not slow and not browser" -q

coverage: $(VENV)/dev.done  ## check that the scheduler's tests take every branch of batching/
	$(BIN)/coverage run --source=darkroom.batching --branch -m pytest -q tests/unit/batching \
	  tests/property/test_driver.py tests/property/test_queue_machine.py tests/property/test_bisection_bounds.py
	$(BIN)/coverage report --fail-under=100

load: $(VENV)/dev.done $(MODELS)  ## start a server and load it with Locust (LOADTEST_RUN_TIME=2m; LOAD='--users 64')
	@$(BIN)/python -m loadtest.load model/efficientnet_lite0 $(LOAD)

# The peers' batch sizes and workers are the fastest ones that were tried. Each peer has its own environment (.bench/).
bench: has-wrk $(COMPILED) $(MODELS) .bench/mosec.done .bench/mlserver.done  ## compare with the physical limit and other servers, into docs/benchmarks/ (ROUNDS=3 SECONDS=8; QUICK=--quick)
	$(WITH_JEMALLOC) $(BIN)/python -m loadtest.bench model/efficientnet_lite0 --batch=8 --workers=2 --rounds=$(ROUNDS) --seconds=$(SECONDS) $(QUICK)
	$(WITH_JEMALLOC) $(BIN)/python -m loadtest.bench model/digits --pictures=digits --batch=64 --workers=2 --own_workers=2 --interpreted --rounds=$(ROUNDS) --seconds=$(SECONDS) $(QUICK)

has-wrk:
	@command -v wrk >/dev/null || { echo "bench: wrk is missing: apt-get install wrk (or brew install wrk), then run this again" >&2; exit 2; }

requirements: $(VENV)/dev.done  ## update the pinned versions and hashes of requirements/*.txt, for Python 3.11 to 3.13
	for name in serve stores gpu models dev build bench-mosec bench-mlserver bench-grpc-clients bench-kserve bench-release tensorflow-serving-api axe mutants fuzz; do \
	  case $$name in tensorflow-serving-api|axe) alone=--no-deps ;; *) alone= ;; esac; \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade $$alone \
	    --custom-compile-command "make requirements" requirements/$$name.in -o requirements/$$name.txt; \
	done
	$(BIN)/python deploy/packages.py arm64 deploy/arm64_wheels.txt

image: build/sbom.cdx.json  ## build the image with its version and commit as labels, and the list of its packages (IMAGE=darkroom)
	docker build --file deploy/Dockerfile --target $(TARGET) --tag $(IMAGE):$(VERSION) \
	  --label org.opencontainers.image.version=$(VERSION) \
	  --label org.opencontainers.image.revision=$(REVISION) \
	  --label org.opencontainers.image.created=$(COMMITTED) $(DOCKER_FLAGS) .

build/sbom.cdx.json: requirements/serve.txt requirements/stores.txt deploy/packages.py pyproject.toml .bench/release.done | $(VENV)/dev.done
	$(BIN)/python deploy/packages.py sbom $@

hostile: $(VENV)/dev.done  ## run the hostile tests at length: 10,000 broken requests and a long run of schemathesis, in each lane
	HOSTILE_REQUESTS=10000 HOSTILE_EXAMPLES=100 $(BIN)/python -m pytest -q --timeout 1800 tests/wire/test_hostile.py

shapes: $(VENV)/dev.done  ## ask every dialect for 20,000 shapes of inputs on models that begin with every kind of op
	SHAPES_REQUESTS=20000 $(BIN)/python -m pytest -q --log-cli-level=INFO tests/property/test_shapes.py

mutants: $(VENV)/mutants.done  ## change the scheduler's code in every way that a tool knows, and list what no test notices (ONLY=batching/scheduler/queue)
	@$(BIN)/python -m tests.mutants $(ONLY)

fuzz: $(VENV)/fuzz.done  ## feed the parsers with what reaches new code in them, for FUZZ_SECONDS=3600 in all (ONLY=head)
	@$(BIN)/python -m tests.fuzz $(FUZZ_SECONDS) $(ONLY)

faults: $(VENV)/dev.done model/digits/1  ## break a real server in every known way and check every answer, into docs/reliability.md (FAULTS='--only clients')
	@$(WITH_JEMALLOC) $(BIN)/python -m tests.faults $(if $(FAULTS),$(FAULTS),--page)

faults-short: $(VENV)/dev.done model/digits/1  ## the most telling faults: under five minutes
	@$(WITH_JEMALLOC) $(BIN)/python -m tests.faults --short

soak: $(VENV)/dev.done model/digits/1  ## swaps, leavers and poison for half an hour; memory, files and threads must stay (MINUTES=30)
	@$(WITH_JEMALLOC) $(BIN)/python -m tests.faults --soak=$(MINUTES) --page

docs: $(VENV)/dev.done  ## write docs/settings.md, docs/metrics.md and the table of flags from the code
	$(BIN)/python -m darkroom.service.cli.doc_tables

clean:  ## remove everything that was installed and built
	rm -rf $(VENV) .bench model build mutants *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage

model/%/1: | $(VENV)/models.done
	@$(BIN)/darkroom export $* --out=model --missing

# pip builds a wheel and unpacks it. The script below replaces the wheel's own, which would not find the packages.
$(COMPILED): setup.py pyproject.toml $(shell find batching models service -name '*.py') | $(VENV)/build.done
	@echo "compiling (one to three minutes) …"
	@rm -rf build/compiled build/lib* build/temp.*
	@DARKROOM_COMPILED=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps \
	  --target build/compiled . || { echo "this takes a C compiler and Python's headers (Debian: gcc, python3-dev)" >&2; exit 1; }
	@printf '#!/bin/sh\nPYTHONSAFEPATH=1 PYTHONPATH=%s exec %s -m darkroom "$$@"\n' \
	  '$(CURDIR)/build/compiled' '$(CURDIR)/$(BIN)/python' > $@

# Stamp files: a requirements file that changed is installed again.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Darkroom runs on Python 3.11 to 3.13; try: make PYTHON=python3.12 serve" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/models.done: requirements/models.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing the packages for serving and building models (about a minute) …"
	@$(call install,models)

$(VENV)/dev.done: requirements/dev.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing the packages for the tests (about a minute and a half) …"
	@$(call install,dev)
	@touch $(VENV)/models.done

# What compiling takes is part of dev.txt.
$(VENV)/build.done: requirements/build.txt | $(VENV)/models.done
	@[ -e $(VENV)/dev.done ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# On top of dev.txt, in the same environment.
$(VENV)/mutants.done $(VENV)/fuzz.done: $(VENV)/%.done: requirements/%.txt | $(VENV)/dev.done
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

.bench/%.done: requirements/bench-%.txt
	@echo "installing $* in an environment of its own (about a minute) …"
	@$(PYTHON) -m venv .bench/$*
	@.bench/$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# Without what they require: TensorFlow is there already, and of axe only its script is read.
.bench/tensorflow-serving-api.done .bench/axe.done: .bench/%.done: requirements/%.txt | $(VENV)/dev.done
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --upgrade \
	  --target .bench/$* -r $<
	@touch $@

define install
$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/$(1).txt && \
$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable . && \
touch $(VENV)/$(1).done
endef
