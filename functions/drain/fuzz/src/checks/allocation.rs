//! Bytes that a call allocates, and their bound.
//!
//! The allocator counts the bytes of each thread. A bound is the number of input bytes times a factor.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Clone, Copy)]
struct AllocationCount {
    /// Bytes that are allocated now.
    ///
    /// The number is negative if this thread freed bytes that another thread allocated.
    live: isize,
    /// The largest value of `live`.
    peak: isize,
    /// All bytes that were allocated, freed or not.
    total: usize,
}

thread_local! {
    static COUNT: Cell<AllocationCount> = const { Cell::new(AllocationCount { live: 0, peak: 0, total: 0 }) };
}

struct CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn count(allocated: usize, freed: usize) {
    // A thread that ends has already dropped its counts.
    let _ = COUNT.try_with(|cell| {
        let mut count = cell.get();
        count.total += allocated;
        count.live += allocated as isize;
        // The peak comes before the freed bytes: while a block grows, both its copies may exist.
        count.peak = count.peak.max(count.live);
        count.live -= freed as isize;
        cell.set(count);
    });
}

// SAFETY: each method calls the system's allocator with the same arguments, and counts.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(0, layout.size());
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        unsafe { System.realloc(block, layout, size) }
    }
}

/// Bound on the bytes that a call may allocate.
#[derive(Debug, Clone, Copy)]
pub(super) struct AllocationBound {
    /// The work that is measured.
    work: &'static str,
    /// Bytes at one time, for each byte of the input.
    peak: usize,
    /// Bytes in all, freed or not, for each byte of the input.
    total: usize,
    /// Bytes in addition, whatever the size of the input.
    base: usize,
    /// The largest factors measured so far, peak and total, in hundredths.
    largest: &'static [AtomicUsize; 2],
}

/// Largest factors measured so far: `(work, bytes at one time, bytes in all)`.
///
/// Both are bytes for each byte of the input. Inputs below a thousand bytes do not count.
pub fn largest_factors() -> impl Iterator<Item = (&'static str, f64, f64)> {
    AllocationBound::ALL.into_iter().map(|bound| {
        let factors = bound.largest.each_ref();
        let [peak, total] = factors.map(|factor| factor.load(Ordering::Relaxed) as f64 / 100.0);
        (bound.work, peak, total)
    })
}

impl AllocationBound {
    /// Decoding the rows of one peek; the input is the rows' bytes.
    pub(super) const ROWS: AllocationBound = AllocationBound {
        work: "decoding rows",
        peak: 96,
        total: 144,
        base: 16 << 10,
        largest: {
            static LARGEST: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
            &LARGEST
        },
    };
    /// Encoding of a change in one envelope.
    ///
    /// The input is the names, types and values of the change.
    pub(super) const CHANGE: AllocationBound = AllocationBound {
        work: "encoding a change",
        peak: 96,
        total: 256,
        base: 16 << 10,
        largest: {
            static LARGEST: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
            &LARGEST
        },
    };
    /// Reading a checkpoint; the input is its text.
    pub(super) const CHECKPOINT: AllocationBound = AllocationBound {
        work: "reading a checkpoint",
        peak: 192,
        total: 448,
        base: 4 << 10,
        largest: {
            static LARGEST: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
            &LARGEST
        },
    };
    /// Reading an event that is already JSON; the input is its text.
    ///
    /// The factor is large: a table's name of three bytes becomes two strings.
    pub(super) const EVENT: AllocationBound = AllocationBound {
        work: "reading an event",
        peak: 48,
        total: 64,
        base: 1 << 10,
        largest: {
            static LARGEST: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
            &LARGEST
        },
    };

    const ALL: [AllocationBound; 4] = [Self::ROWS, Self::CHANGE, Self::CHECKPOINT, Self::EVENT];
}

/// Bytes that several calls allocated together.
#[derive(Debug, Default)]
pub(super) struct AllocationSum {
    /// Bytes that earlier calls allocated and did not free.
    live: isize,
    peak: isize,
    total: usize,
}

impl AllocationSum {
    /// Runs `work` and adds the bytes that it allocates.
    pub(super) fn add<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let before = COUNT.get();
        COUNT.set(AllocationCount {
            peak: before.live,
            ..before
        });
        let result = work();
        let after = COUNT.get();
        self.peak = self.peak.max(self.live + after.peak - before.live);
        self.live += after.live - before.live;
        self.total += after.total - before.total;
        result
    }

    /// Checks the sum against the bound for an input of `input` bytes.
    ///
    /// # Panics
    /// The sum exceeds the bound.
    pub(super) fn assert_within(&self, bound: AllocationBound, input: usize) {
        let peak = usize::try_from(self.peak).unwrap_or(0);
        let AllocationBound { work, base, .. } = bound;
        for (allocated, factor, largest) in [
            (peak, bound.peak, &bound.largest[0]),
            (self.total, bound.total, &bound.largest[1]),
        ] {
            assert!(
                allocated <= base + factor * input,
                "{work}: {allocated} bytes allocated for {input} bytes, more than {base} + {factor} for each"
            );
            if input >= 1000 {
                largest.fetch_max(allocated * 100 / input, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_counts_the_peak_and_all_allocated_bytes() {
        let mut sum = AllocationSum::default();
        let block: Vec<u8> = sum.add(|| Vec::with_capacity(100));
        sum.add(|| drop(Vec::<u8>::with_capacity(50)));
        sum.add(|| drop(Vec::<u8>::with_capacity(50)));
        assert_eq!((sum.live, sum.peak, sum.total), (100, 150, 200));
        sum.add(|| drop(block));
        assert_eq!((sum.live, sum.peak, sum.total), (0, 150, 200));
    }

    #[test]
    #[should_panic(expected = "reading an event: 2000 bytes allocated for 10 bytes")]
    fn a_sum_above_the_bound_panics() {
        let mut sum = AllocationSum::default();
        sum.add(|| Vec::<u8>::with_capacity(2000));
        sum.assert_within(AllocationBound::EVENT, 10);
    }
}
