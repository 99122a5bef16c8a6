//! How the C library's allocator is to treat pages: they are large, short-lived, and made again and again.

/// Smaller blocks are kept for reuse, larger ones are given back to the kernel at once.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: i32 = 512 * 1024;
/// Free memory beyond this at the end of the small ones goes back to the kernel. The library's own number, 128 KiB, which
/// setting the other one fixes, is less than what each collection frees: it would give back and fetch all the time.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: i32 = 8 << 20;
/// Few threads allocate; each further arena would keep what it once had.
#[cfg(target_env = "gnu")]
const ARENAS: i32 = 2;

/// Otherwise the first page that is freed teaches the allocator to keep blocks of that size among the small ones, where
/// they leave holes: peaks were half as high again.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "a function of the C library")]
pub(super) fn keep_pages_apart() {
    // SAFETY: takes no pointer, may be called at any time from any thread, and only sets three of the allocator's numbers;
    // a value that it does not like changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

#[cfg(not(target_env = "gnu"))]
pub(super) fn keep_pages_apart() {}
