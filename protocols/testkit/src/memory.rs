//! Counting the memory of one thread, so that tests can hold state to a bound.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

/// An allocator that counts what each thread holds. A test binary installs it with
/// [`crate::count_memory!`]; the counts of threads are apart, so that tests running beside each other do not
/// disturb each other. Memory freed by another thread than the one that took it is booked on the freeing one.
pub struct CountingAllocator;

fn book(bytes: isize) {
    // A thread that is being torn down has no counter any more; nothing is measured there.
    let _ = LIVE.try_with(|live| live.set(live.get() + bytes));
}

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract; the counter is
// a constant-initialised thread-local without destructor, so that touching it neither allocates nor unwinds.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        book(layout.size() as isize);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        book(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract of `dealloc`, and `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        book(new_size as isize - layout.size() as isize);
        // SAFETY: the caller keeps the contract of `realloc`, and `pointer` came from `System`.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

/// Installs [`CountingAllocator`] in a test binary.
#[macro_export]
macro_rules! count_memory {
    () => {
        #[global_allocator]
        static COUNTING_ALLOCATOR: $crate::memory::CountingAllocator = $crate::memory::CountingAllocator;
    };
}

/// Bytes this thread holds. Panics where the binary has not installed the allocator.
pub fn live() -> isize {
    assert!(
        is_counting(),
        "the test binary must say `sluice_testkit::count_memory!();`"
    );
    LIVE.with(Cell::get)
}

fn is_counting() -> bool {
    let before = LIVE.with(Cell::get);
    let probe = std::hint::black_box(Box::new(0u64));
    let during = LIVE.with(Cell::get);
    drop(probe);
    during != before
}

#[cfg(test)]
mod tests {
    use super::live;

    #[test]
    fn counts_what_is_held_and_not_what_was_given_back() {
        let before = live();
        let held = vec![0u8; 10_000];
        drop(vec![0u8; 50_000]);
        assert_eq!(live() - before, 10_000);
        drop(held);
        assert_eq!(live(), before);
    }
}
