#!/bin/sh
# Sees to it that there is a Rust that can link. rustup fetches the toolchain that rust-toolchain.toml names by itself.
set -eu
if ! command -v cargo >/dev/null || ! command -v rustup >/dev/null; then
    echo "missing: cargo and rustup. Install Rust with rustup, then run make again." >&2
    exit 1
fi
command -v cc >/dev/null || "${0%/*}/debian.sh" gcc libc6-dev
# Older and newer versions of rustup differ in whether a cargo command fetches the toolchain; asking for it is quick when it is there.
rustc --version >/dev/null 2>&1 || rustup toolchain install
# A toolchain that was installed before this folder named it may lack them.
cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || rustup component add --quiet clippy rustfmt
