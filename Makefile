# `make help` lists what there is. Needs Python 3.11 or newer, and make.
PYTHON ?= python3
BIN := .venv/bin
STUBS := client/python
STAMP := .venv/.installed
# Processes that share the files of tests: most of the tests' time is spent waiting.
JOBS := 4
# What Python compiles is kept, whatever the environment says: the tests start hundreds of processes.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install lock gen gen-check format lint test test-clients test-go test-java test-from-proto test-browser torture fuzz rotation bench bench-clients bench-start bench-scale demo run image-check clean

help: ## list what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(STAMP) ## install everything into .venv

$(STAMP): requirements/dev.txt requirements/helm.txt vault/pyproject.toml client/python/pyproject.toml \
  tests/authserver/package.json tests/authserver/package-lock.json
	@echo "installing into .venv (first time: about a minute)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=…")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e client/python -e vault
	@$(BIN)/python -m tests.authserver.node install
	@$(BIN)/python -m tests.deploy.helm
	@touch $@

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-annotate --no-emit-package tokenvault --custom-compile-command "make lock"

lock: ## resolve dependencies anew into requirements/
	$(COMPILE) --group pyproject.toml:dev vault/pyproject.toml client/python/pyproject.toml -o requirements/dev.txt
	$(COMPILE) -c requirements/dev.txt vault/pyproject.toml client/python/pyproject.toml -o requirements/runtime.txt
	$(COMPILE) -c requirements/dev.txt --group pyproject.toml:build -o requirements/build.txt

gen: $(STAMP) ## generate the stubs from proto/, and the configuration's reference
	@$(BIN)/python -m tests.tools.generate $(STUBS)
	@$(BIN)/python -m tests.tools.go_stubs
	@$(BIN)/python -m tests.tools.node_proto
	@$(BIN)/python -m tests.tools.config_docs

gen-check: $(STAMP) ## fail when what is generated is stale
	@$(BIN)/python -m tests.tools.generate --check $(STUBS)
	@$(BIN)/python -m tests.tools.go_stubs --check
	@$(BIN)/python -m tests.tools.node_proto --check
	@$(BIN)/python -m tests.tools.config_docs --check

format: $(STAMP) ## format code and proto
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	$(BIN)/buf format -w proto

lint: $(STAMP) ## ruff, mypy strict, import contracts, buf; the proto against the last release
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf format --diff --exit-code proto
	$(BIN)/buf lint proto
	@$(BIN)/python -m tests.tools.breaking

test: $(STAMP) ## run the tests, a few files at a time; JOBS=0 for one after the other
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-clients: $(STAMP) ## play one scenario with every language's client: a table of language × step
	@$(BIN)/python -m tests.clients

test-go: $(STAMP) ## the Go client's tests and example, where Go is: two minutes the first time, then 10 s
	$(BIN)/pytest tests/client/go_client.py

test-java: $(STAMP) ## the Java client's tests and example, where Maven is: two minutes the first time, then 40 s
	$(BIN)/pytest tests/client/java_client.py

test-from-proto: $(STAMP) ## the C++ and Rust programs of client/README.md, where the tools are: two minutes the first time
	$(BIN)/pytest tests/client/from_proto.py

test-browser: $(STAMP) ## the callback page in a real Chromium (/usr/bin/chromium); pictures in build/browser
	$(BIN)/python -m pytest tests/browser/chromium.py

torture: $(STAMP) ## kill sidecars 400 times while they renew, and 150 times while they are written to: about 14 minutes
	$(BIN)/python -m tests.torture
	$(BIN)/python -m tests.torture --sidecars 3 --kills 100
	$(BIN)/python -m tests.torture --store postgres --sidecars 4 --kills 100 --restarts 20
	TOKENVAULT_KILLS=100 $(BIN)/python -m pytest tests/e2e/test_sigkill.py

fuzz: $(STAMP) ## 50,000 calls of all kinds, 20,000 requests of browsers, bytes that are none, interleavings: about 12 minutes
	TOKENVAULT_FUZZ_CALLS=50000 TOKENVAULT_FUZZ_REQUESTS=20000 $(BIN)/python -m pytest tests/fuzz tests/callback/test_listener.py
	TOKENVAULT_EXAMPLES=2000 $(BIN)/python -m pytest tests/core/test_stateful.py

rotation: $(STAMP) ## rotate a data key and seal 100,000 grants anew under 500 calls/s: about 2 minutes
	$(BIN)/python -m tests.keys

bench: $(STAMP) ## GetToken against an empty echo, with options on, by two workers, and while grants are renewed; renewals against a bare client
	$(BIN)/python -m tests.bench

bench-clients: $(STAMP) ## a token from each client's memory against one by RPC, in calls a second: a minute
	@$(BIN)/python -m tests.clients.bench

bench-start: $(STAMP) ## starting, and commands, with a million grants: about 10 minutes and 4 GB of disk
	$(BIN)/python -m tests.bench.start

bench-scale: $(STAMP) ## GetToken, memory and start with a million grants against a thousand, in both stores: about 8 minutes
	$(BIN)/python -m tests.bench.scale

demo: $(STAMP) ## play the main job through for real, step by step
	@$(BIN)/python -m tests.demo

run: $(STAMP) ## keep a sidecar and an authorization server up, and print how to call them
	@$(BIN)/python -m tests.demo --keep

image-check: $(STAMP) ## take the image's build steps without a container engine, and run what they make
	@$(BIN)/python -m tests.deploy

clean: ## remove what was built and installed
	rm -rf .venv build
