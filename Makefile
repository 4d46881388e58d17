# What there is to do with a checkout. Each command does its own set-up on a fresh machine.

CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := target/tools/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny
SCRIPTS := .ci/run deploy/up deploy/packages $(wildcard deploy/instance/*)

# What `make bench` measures: `release` is what people run, `ci` takes half the time to build.
PROFILE := release
ROUNDS := 5

# What `make attack` tries, of `timing` and `storm`; all of it, where nothing is said.
ATTACKS :=

# Where rustup puts cargo, for a shell that does not know yet; and where Debian has servers.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin

.DEFAULT_GOAL := help
.PHONY: help up test check bench attack packages

help: ## Lists these commands.
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 16

up: ## Runs a whole Memoric in the foreground, on 127.0.0.1:8000 and :8443; Ctrl-C ends it.
	@deploy/up

test: ## Builds everything and runs every test.
	@deploy/packages build run test
	cargo build --workspace --locked
	cargo test --workspace --locked

check: packages $(CARGO_DENY) ## Checks format, lints, documentation, dependencies and scripts.
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links' cargo doc --workspace --no-deps --document-private-items --locked
	cargo fetch --locked --quiet
	$(CARGO_DENY) --offline check bans licenses sources
	@if command -v shellcheck >/dev/null; then set -x; shellcheck -x $(SCRIPTS); else echo 'no shellcheck here: skipped'; fi

# What is measured is built first and by itself, as `make up` does it: with the others it would get what only tests and
# examples ask of its dependencies. Those two name the same packages, so that they share one build.
bench: ## Measures what requests, memories and logouts cost, against what else there is; PROFILE=ci builds faster.
	@deploy/packages build run bench
	cargo build --profile $(PROFILE) --locked -p memoric-backend -p memoric-gateway
	cargo build --profile $(PROFILE) --locked -p memoric-gateway -p memoric-tests --example passthrough
	cargo bench --profile $(PROFILE) --locked -p memoric-gateway -p memoric-tests --bench bench -- --rounds $(ROUNDS)

attack: packages ## Attacks a running Memoric, and says what that tells of it; PROFILE=ci builds faster.
	cargo build --profile $(PROFILE) --locked -p memoric-backend -p memoric-gateway
	cargo bench --profile $(PROFILE) --locked -p memoric-gateway -p memoric-tests --bench attack -- $(ATTACKS)

packages:
	@deploy/packages build run

# A tool that runs for seconds is not worth the minutes of optimising it.
$(CARGO_DENY): | packages
	CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
		cargo install --locked --root target/tools/cargo-deny-$(CARGO_DENY_VERSION) cargo-deny@$(CARGO_DENY_VERSION)
