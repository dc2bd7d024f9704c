# What a person and CI both run. `make demo` and `make test` are all that a fresh machine needs.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# One profile and one target folder for everything: RocksDB and librdkafka are C++ and take many minutes of compiling
# for each profile that is new. Outside the checkout, so that a second clone finds it built.
PORTCULLIS_CACHE ?= $(HOME)/.cache/portcullis
export CARGO_TARGET_DIR ?= $(PORTCULLIS_CACHE)/target
# rustup puts cargo here; Debian keeps nginx in sbin, which is not on every user's PATH.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/sbin:/usr/sbin
KAFKA_VERSION := $(shell sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' tests/kafka/pom.xml)
export PORTCULLIS_CACHE
export PORTCULLIS_KAFKA_LIBS ?= $(PORTCULLIS_CACHE)/kafka-$(KAFKA_VERSION)/libs

TOOLS := $(PORTCULLIS_CACHE)/tools
TYPOS := $(firstword $(wildcard $(TOOLS)/typos/bin/typos) $(shell command -v typos))
CARGO_DENY := $(firstword $(wildcard $(TOOLS)/bin/cargo-deny) $(shell command -v cargo-deny))
CARGO := cargo

.PHONY: help setup setup-build build demo test check fmt lint deny advisories typos bench tools clean-help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1\t/' | expand -t 14

setup: ## install what building and testing need; fetch Apache Kafka and the schema registry
	@scripts/setup.sh

setup-build:
	@scripts/setup.sh --build

build: setup-build ## build the program
	$(CARGO) build --release --locked
	@echo "$$CARGO_TARGET_DIR/release/portcullis"

demo: setup-build ## the night of 28 June 2019, in the terminal; no Java, no Docker
	$(CARGO) run --release --locked -- demo

test: setup check advisories ## everything, against a real Kafka and a real nginx
	$(CARGO) test --release --locked

check: fmt lint deny typos ## format, lints, licences and sources, spelling

fmt:
	$(CARGO) fmt --check

lint:
	$(CARGO) clippy --release --all-targets --locked -- -D warnings

deny:
ifeq ($(CARGO_DENY),)
	@echo "cargo-deny is not installed, so licences and sources are not checked (make tools)"
else
	$(CARGO_DENY) --log-level error check bans licenses sources
endif

# Of all checks the only one that needs the network, so it is not part of `check`; a machine without one passes.
advisories: ## known vulnerabilities in the dependencies, where their list can be fetched
ifeq ($(CARGO_DENY),)
	@echo "cargo-deny is not installed, so advisories are not checked (make tools)"
else
	@if $(CARGO_DENY) fetch db 2> /dev/null; then $(CARGO_DENY) --log-level error check --disable-fetch advisories; \
	else echo "the list of advisories cannot be fetched from here, so they are not checked"; fi
endif

typos:
ifeq ($(TYPOS),)
	@echo "typos is not installed, so spelling is not checked (make tools)"
else
	$(TYPOS)
endif

bench: build ## throughput figures on a real Kafka
	benches/run.sh

# cargo install builds into a folder of its own, so that it does not disturb the program's.
tools: ## install cargo-deny and typos for `make check`
	@[ -x "$(TOOLS)/bin/cargo-deny" ] || CARGO_TARGET_DIR="$(TOOLS)/build" $(CARGO) install --locked --root "$(TOOLS)" cargo-deny
	@rm -rf "$(TOOLS)/build"
	@[ -x "$(TOOLS)/typos/bin/typos" ] || { python3 -m venv "$(TOOLS)/typos" && "$(TOOLS)/typos/bin/pip" install -q typos; } \
	  || { rm -rf "$(TOOLS)/typos"; $(CARGO) install --locked --root "$(TOOLS)/typos" typos-cli; }

clean-help: ## what to delete to get the disk space back
	@echo "rm -rf $(CARGO_TARGET_DIR)    # what was built"
	@echo "rm -rf $(PORTCULLIS_CACHE)    # that, the jars of Kafka and the registry, and the tools"
