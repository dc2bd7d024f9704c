# What a person and CI both run. `make demo` and `make test` are all that a fresh machine needs.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Two cargos at once would wait for each other, and what set-up installs must be there first.
.NOTPARALLEL:

# One profile and one target folder for everything: RocksDB and librdkafka are C++ and take many minutes of compiling
# for each profile that is new. Outside the checkout, so that a second clone finds it built.
PORTCULLIS_CACHE ?= $(HOME)/.cache/portcullis
export CARGO_TARGET_DIR ?= $(PORTCULLIS_CACHE)/target
# rustup's cargo goes before a distribution's own, which knows nothing of rust-toolchain.toml; Debian keeps nginx in sbin,
# which is not on every user's PATH.
export PATH := $(HOME)/.cargo/bin:$(PATH):/usr/local/sbin:/usr/sbin
KAFKA_VERSION := $(shell sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' tests/kafka/pom.xml)
export PORTCULLIS_CACHE
export PORTCULLIS_KAFKA_LIBS ?= $(PORTCULLIS_CACHE)/kafka-$(KAFKA_VERSION)/libs

# The pinned tools where set-up has fetched them, else those of the machine. Looked up when they are used, since set-up
# may run first.
version-of = $(shell sed -n 's/^$(1)_version=//p' scripts/setup.sh)
tool = $(firstword $(wildcard $(PORTCULLIS_CACHE)/tools/$(1)-$(2)/bin/$(1)) $(shell command -v $(1)))
TYPOS = $(call tool,typos,$(call version-of,typos))
CARGO_DENY = $(call tool,cargo-deny,$(call version-of,cargo_deny))
CARGO := cargo

.PHONY: help setup setup-build build demo console test chaos check fmt lint deny advisories typos rooms simulation bench score tools clean-help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1\t/' | expand -t 14

setup: ## install what building and testing need; fetch Apache Kafka, the schema registry and the checking tools
	@scripts/setup.sh

setup-build:
	@scripts/setup.sh --build

build: setup-build ## build the program
	$(CARGO) build --release --locked
	@echo "$$CARGO_TARGET_DIR/release/portcullis"

demo: setup-build ## the night of 28 June 2019, in the terminal; no Java, no Docker
	$(CARGO) run --release --locked -- demo

console: setup-build ## the same with pages to look at, on http://127.0.0.1:8480 until Ctrl-C
	$(CARGO) run --release --locked -- demo --console 127.0.0.1:8480

test: setup check advisories ## everything, against a real Kafka and a real nginx
	$(CARGO) test --release --locked

# The log tells the seeds; CHAOS_SEED=n does the same faults to the same events again.
export CHAOS_FAULTS ?= 1000
CHAOS_LOGS ?= $(PORTCULLIS_CACHE)/chaos
chaos: setup ## CHAOS_FAULTS faults (1000) on a real Kafka, and a comparison with what must have come out
	@mkdir -p '$(CHAOS_LOGS)'
	@log="$(CHAOS_LOGS)/$$(date -u +%Y%m%dT%H%M%SZ).log"; echo "log: $$log"; \
	  $(CARGO) test --release --locked --test it -- chaos::as_many_faults --ignored --nocapture 2>&1 | tee "$$log"

score: setup-build ## every simulated attack and trouble, SEEDS seeds (3), beside fail2ban, CrowdSec and an oracle; a quarter of an hour
	$(CARGO) run --release --locked -- --log warn score --seeds $(or $(SEEDS),3)

check: fmt lint deny typos rooms ## format, lints, licences and sources, spelling, direction of rooms

fmt:
	$(CARGO) fmt --check

lint:
	$(CARGO) clippy --release --all-targets --locked -- -D warnings

# A crate that comes in two versions is shown by `cargo deny check bans`; here only what fails is.
deny:
	@tool='$(CARGO_DENY)'; if [ -z "$$tool" ]; then \
	  echo "cargo-deny is not installed, so licences and sources are not checked (make tools)"; \
	else set -x; "$$tool" --log-level error check bans licenses sources; fi

# Of all checks the only one that needs the network, so it is not part of `check`; a machine without one passes.
advisories: ## known vulnerabilities in the dependencies, where their list can be fetched
	@tool='$(CARGO_DENY)'; if [ -z "$$tool" ]; then \
	  echo "cargo-deny is not installed, so advisories are not checked (make tools)"; \
	elif timeout 60 "$$tool" fetch db 2> /dev/null; then set -x; "$$tool" --log-level error check --disable-fetch advisories; \
	else echo "the list of advisories cannot be fetched from here, so they are not checked"; fi

typos:
	@tool='$(TYPOS)'; if [ -z "$$tool" ]; then \
	  echo "typos is not installed, so spelling is not checked (make tools)"; \
	else set -x; "$$tool"; fi

rooms:
	$(CARGO) test --release --locked --test it -- tidy::

# Each seed is one history; PORTCULLIS_SEED=n plays one alone and says what was done in it.
PORTCULLIS_SEEDS ?= 10000

simulation: setup-build ## the stage loop over a model of Kafka, with everything that can go wrong, from 10,000 seeds
	PORTCULLIS_SEEDS=$(PORTCULLIS_SEEDS) $(CARGO) test --release --locked --test it -- simulation::whatever --nocapture

bench: build ## throughput beside the peers, latency, restore and cost, on a Kafka of its own (minutes)
	benches/run.sh

tools: ## install cargo-deny and typos for `make check`
	@scripts/setup.sh --tools

clean-help: ## what to delete to get the disk space back
	@echo "rm -rf $(CARGO_TARGET_DIR)    # what was built"
	@echo "rm -rf $(PORTCULLIS_CACHE)    # that, the jars of Kafka and the registry, and the tools"
