//! How the process gives memory back to the kernel.
#![allow(unsafe_code)]

/// Blocks of this many octets and more are mapped one by one, and leave the process when they are freed: far above
/// what sessions and packets take, below the 8 MiB that the cheapest useful password hash computes in.
const LARGE: i32 = 1 << 20;

/// Keeps the C library from moving large blocks into its heaps. By itself it raises the size from which blocks are
/// mapped alone to that of the largest one freed so far; then what a password hash was computed in stays in the heap of
/// its thread, is cut by small blocks, and the next one takes new memory, up to 64 MiB for each of many heaps.
pub(super) fn return_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers and changes a setting of the allocator under its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    /// Says to the test that it runs in a process of its own.
    const ALONE: &str = "SLUICE_TEST_ALONE";

    /// In a process of its own: what others freed in their heaps before would serve as well.
    #[test]
    fn a_large_block_is_mapped_alone_however_many_were_freed() {
        if std::env::var_os(ALONE).is_none() {
            let name = "worker::memory::tests::a_large_block_is_mapped_alone_however_many_were_freed";
            let mut own = std::process::Command::new(std::env::current_exe().unwrap());
            let status = own.args(["--exact", name]).env(ALONE, "1").status().unwrap();
            assert!(status.success());
            return;
        }
        return_large_blocks();
        let mut pinned = Vec::new();
        for _ in 0..8 {
            let block = vec![1u8; 19 << 20];
            // The allocator's own header of a block that is mapped alone takes the first 16 octets of a page.
            assert_eq!(block.as_ptr().addr() % 4096, 16, "in a heap");
            pinned.push(Box::new([0u8; 100]));
        }
        assert_eq!(pinned.len(), 8);
    }
}
