//! Counts the allocations of the path that each change takes: decode, encode, pack.
//!
//! The buffers of a change are used again for a later one. The allocations of a record or a request are
//! shared by its changes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use drain::encode::SchemaCache;
use drain::pack::Aggregation;

use hot_path::{Path, Stage};

mod hot_path;

/// The system's allocator, which counts.
struct CountingAllocator;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: each method passes its arguments to the system's allocator, and adds a number.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Changes before the count starts, and changes that are counted.
const CHANGES: (u32, u32) = (20_000, 20_000);

/// Allocations of each change on the steady path, up to stage `last`.
fn allocations(mut path: Path, last: Stage) -> f64 {
    let (warm, counted) = CHANGES;
    path.pass(0..warm, last);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    path.pass(warm..warm + counted, last);
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert!(
        last < Stage::Pack || path.bytes > 2 * counted as usize * 100,
        "{} bytes were sent",
        path.bytes
    );
    allocations as f64 / f64::from(counted)
}

/// Only one test, since the count is of the whole process.
#[test]
fn a_change_allocates_nothing_on_the_steady_path() {
    let usual = || Path::new(Aggregation::None);
    let decoded = allocations(usual(), Stage::Decode);
    let encoded = allocations(usual(), Stage::Encode);
    let kpl = allocations(Path::new(Aggregation::Kpl { bytes: 25 << 10 }), Stage::Pack);
    let none = allocations(usual(), Stage::Pack);
    println!(
        "allocations of a change: {decoded:.3} decoded, {encoded:.3} encoded, {kpl:.3} kpl, {none:.3} none"
    );
    assert!(decoded < 0.01, "{decoded}");
    assert!(encoded < 0.01, "{encoded}");
    // The schema is composed once for the table, and copied for each row.
    for (unwrap, schemas) in [(true, false), (false, true), (true, true)] {
        let schemas = schemas.then(SchemaCache::default);
        let path = Path::with_form(Aggregation::None, unwrap, schemas);
        let encoded = allocations(path, Stage::Encode);
        assert!(encoded < 0.01, "{encoded} in a flat row {unwrap}");
    }
    // An aggregate has about thirty changes. Without aggregation each change is a record. The queue of its
    // lane is allocated, and becomes the record's list of events.
    assert!(kpl < 0.4, "{kpl}");
    assert!(none < 1.5, "{none}");
}
