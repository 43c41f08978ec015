//! Micro-benchmarks of the path that each change takes: `cargo bench --locked --workspace --bench hot_path`.
//!
//! Each sample is 1,000 changes of a table with a key, so a millisecond is a microsecond for each change.

use divan::Bencher;
use drain::encode::SchemaCache;
use drain::pack::Aggregation;

use hot_path::{Path, Stage};

#[path = "../tests/hot_path/mod.rs"]
mod hot_path;

/// Changes of a sample.
const CHANGES: u32 = 1_000;

fn main() {
    divan::main();
}

/// Runs the stages up to this one.
fn bench(bencher: Bencher<'_, '_>, aggregation: Aggregation, last: Stage) {
    bench_path(bencher, Path::new(aggregation), last);
}

/// Runs the stages of a path up to this one.
fn bench_path(bencher: Bencher<'_, '_>, mut path: Path, last: Stage) {
    path.pass(0..CHANGES, last);
    let mut next = CHANGES;
    bencher.bench_local(move || {
        path.pass(next..next + CHANGES, last);
        next += CHANGES;
    });
}

#[divan::bench]
fn decode(bencher: Bencher<'_, '_>) {
    bench(bencher, Aggregation::None, Stage::Decode);
}

#[divan::bench]
fn decode_encode(bencher: Bencher<'_, '_>) {
    bench(bencher, Aggregation::None, Stage::Encode);
}

#[divan::bench]
fn decode_encode_flat_with_schemas(bencher: Bencher<'_, '_>) {
    let path = Path::with_form(Aggregation::None, true, Some(SchemaCache::default()));
    bench_path(bencher, path, Stage::Encode);
}

#[divan::bench]
fn decode_encode_pack_none(bencher: Bencher<'_, '_>) {
    bench(bencher, Aggregation::None, Stage::Pack);
}

#[divan::bench]
fn decode_encode_pack_kpl(bencher: Bencher<'_, '_>) {
    bench(bencher, Aggregation::Kpl { bytes: 248_000 }, Stage::Pack);
}
