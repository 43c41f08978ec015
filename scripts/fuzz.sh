#!/bin/sh
# fuzz.sh TARGET SECONDS: fuzzes a target of functions/drain/fuzz. The first inputs are the committed ones and
# those that earlier runs found. An input that fails is written into a file, and the run prints the file's name.
set -eu
cd "${0%/*}/.."
target=$1
seconds=$2
fuzz=functions/drain/fuzz

if [ ! -e "$fuzz/fuzz_targets/$target.rs" ]; then
    echo "there is no target $target. The targets are: $(basename -s .rs -a $fuzz/fuzz_targets/*.rs | xargs)" >&2
    exit 1
fi

# Coverage by the LLVM of stable rustc. With `--target`, build scripts and macros have no coverage: no fuzzer
# reads it.
host=$(rustc -vV | sed -n 's/^host: //p')
pass=-Cllvm-args=-sanitizer-coverage
echo "building $target"
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module $pass-level=4 $pass-inline-8bit-counters $pass-pc-table" \
    cargo build --quiet --locked --release --manifest-path "$fuzz/Cargo.toml" --target-dir target/fuzz \
    --target "$host" --bin "$target"

grown=target/fuzz/corpus/$target
found=target/fuzz/found/$target
mkdir -p "$grown" "$found"
kept=$fuzz/corpus/$target
[ "$target" != event ] || kept="$kept events"
# An input of 8 KB needs far less than 20 seconds and 256 MB. Each target has its own bound for allocations.
# shellcheck disable=SC2086 # one word for each folder
exec "target/fuzz/$host/release/$target" -max_total_time="$seconds" -max_len=8192 -timeout=20 \
    -malloc_limit_mb=256 -rss_limit_mb=1024 -entropic_scale_per_exec_time=1 -print_final_stats=1 \
    -dict="$fuzz/dict/$target" -artifact_prefix="$found/" "$grown" $kept
