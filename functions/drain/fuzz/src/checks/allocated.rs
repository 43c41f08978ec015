//! What a piece of work allocates, counted by the allocator of this thread, and the bound on it: bytes of the input times a factor.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Clone, Copy)]
struct Count {
    /// Bytes that are allocated now; negative where what is freed here came from another thread.
    live: isize,
    peak: isize,
    /// Bytes that were allocated, freed or not.
    total: usize,
}

thread_local! {
    static COUNT: Cell<Count> = const { Cell::new(Count { live: 0, peak: 0, total: 0 }) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(allocated: usize, freed: usize) {
    // A thread that is going has no counts any more.
    let _ = COUNT.try_with(|cell| {
        let mut count = cell.get();
        count.total += allocated;
        count.live += allocated as isize;
        // Before what is freed: a block that grows may be there twice for a moment.
        count.peak = count.peak.max(count.live);
        count.live -= freed as isize;
        cell.set(count);
    });
}

// SAFETY: each method does what the system's allocator does, with the same arguments, and counts.
unsafe impl GlobalAlloc for Counting {
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

/// What may be allocated for an input.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    /// Of what.
    name: &'static str,
    /// Bytes at one time, for each byte of the input.
    peak: usize,
    /// Bytes in all, freed or not, for each byte of the input.
    total: usize,
    /// Bytes for an input of no bytes.
    room: usize,
    /// The largest factors that were seen, in hundredths.
    most: &'static [AtomicUsize; 2],
}

/// How much was seen at most of what was allowed: `(what, bytes at one time, bytes in all)` for each byte of the input, where that
/// had a thousand bytes or more.
pub fn most() -> impl Iterator<Item = (&'static str, f64, f64)> {
    Bound::ALL.into_iter().map(|bound| {
        let [peak, total] = bound
            .most
            .each_ref()
            .map(|most| most.load(Ordering::Relaxed) as f64 / 100.0);
        (bound.name, peak, total)
    })
}

impl Bound {
    /// Decoding the rows of one peek, of the rows' bytes.
    pub(super) const ROWS: Bound = Bound {
        name: "decoding rows",
        peak: 96,
        total: 144,
        room: 16 << 10,
        most: {
            static MOST: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
            &MOST
        },
    };
    /// Writing a change in one envelope, of the bytes of its tables' names and types and of its values.
    pub(super) const CHANGE: Bound = Bound {
        name: "writing a change",
        peak: 96,
        total: 256,
        room: 16 << 10,
        most: {
            static MOST: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
            &MOST
        },
    };
    /// Reading a checkpoint, of its text.
    pub(super) const CHECKPOINT: Bound = Bound {
        name: "reading a checkpoint",
        peak: 192,
        total: 448,
        room: 4 << 10,
        most: {
            static MOST: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
            &MOST
        },
    };
    /// Reading an event that was parsed already, of its text. A name of a table of three bytes is two texts of their own.
    pub(super) const EVENT: Bound = Bound {
        name: "reading an event",
        peak: 48,
        total: 64,
        room: 1 << 10,
        most: {
            static MOST: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
            &MOST
        },
    };

    const ALL: [Bound; 4] = [Bound::ROWS, Bound::CHANGE, Bound::CHECKPOINT, Bound::EVENT];
}

/// What several pieces of work allocated.
#[derive(Debug, Default)]
pub(super) struct Sum {
    /// Bytes that one of them left behind and the next found.
    kept: isize,
    peak: isize,
    total: usize,
}

impl Sum {
    /// Does a piece of work.
    pub(super) fn add<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let before = COUNT.get();
        COUNT.set(Count {
            peak: before.live,
            ..before
        });
        let done = work();
        let after = COUNT.get();
        self.peak = self.peak.max(self.kept + after.peak - before.live);
        self.kept += after.live - before.live;
        self.total += after.total - before.total;
        done
    }

    /// # Panics
    /// It was more than the bound allows for so many bytes.
    pub(super) fn assert_within(&self, bound: Bound, bytes: usize) {
        let peak = usize::try_from(self.peak).unwrap_or(0);
        let Bound { name, room, .. } = bound;
        for (spent, factor, most) in [
            (peak, bound.peak, &bound.most[0]),
            (self.total, bound.total, &bound.most[1]),
        ] {
            assert!(
                spent <= room + factor * bytes,
                "{name}: {spent} bytes allocated for {bytes} bytes, more than {room} and {factor} for each"
            );
            if bytes >= 1000 {
                most.fetch_max(spent * 100 / bytes, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_is_counted_at_its_peak_and_in_all() {
        let mut sum = Sum::default();
        let kept: Vec<u8> = sum.add(|| Vec::with_capacity(100));
        sum.add(|| drop(Vec::<u8>::with_capacity(50)));
        sum.add(|| drop(Vec::<u8>::with_capacity(50)));
        assert_eq!((sum.kept, sum.peak, sum.total), (100, 150, 200));
        sum.add(|| drop(kept));
        assert_eq!((sum.kept, sum.peak, sum.total), (0, 150, 200));
    }

    #[test]
    #[should_panic(expected = "reading an event: 2000 bytes allocated for 10 bytes")]
    fn more_than_the_bound_is_refused() {
        let mut sum = Sum::default();
        sum.add(|| Vec::<u8>::with_capacity(2000));
        sum.assert_within(Bound::EVENT, 10);
    }
}
