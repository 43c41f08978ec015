#!/bin/sh
# Checks that Rust is installed and can link. rustup fetches the toolchain of rust-toolchain.toml.
set -eu
if ! command -v cargo >/dev/null || ! command -v rustup >/dev/null; then
    echo "missing: cargo and rustup. Install Rust with rustup, then run make again." >&2
    exit 1
fi
command -v cc >/dev/null || "${0%/*}/debian.sh" gcc libc6-dev
# Not every version of rustup fetches the toolchain on the first cargo command.
rustc --version >/dev/null 2>&1 || rustup toolchain install
# A toolchain that was installed earlier may lack these components.
cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 ||
    rustup component add --quiet clippy rustfmt
