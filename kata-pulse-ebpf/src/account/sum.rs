//! Additions to words of a map's value that other CPUs add to at the same time.

use core::arch::asm;

use kata_pulse_common::account::{BUCKETS, SUM};

/// # Safety
/// `word` points into a value that its map just gave out.
#[inline(always)]
pub unsafe fn add(word: *mut u64, value: u64) {
    // The compiler gives this target no atomic types; every kernel has had this instruction.
    // SAFETY: aligned as all map values are, and the verifier checks the address.
    unsafe {
        asm!(
            "lock *(u64 *)({word} + 0) += {value}",
            word = in(reg) word,
            value = in(reg) value,
            options(nostack),
        )
    };
}

/// Adds to a histogram, which is the first words of a value.
///
/// # Safety
/// As [`add`]; the value has at least `HISTOGRAM_WORDS` words.
#[inline(always)]
pub unsafe fn observe(histogram: *mut u64, nanoseconds: u64) {
    let bucket = bucket(nanoseconds);
    // SAFETY: the bucket is below BUCKETS.
    unsafe {
        add(histogram.add(bucket), 1);
        add(histogram.add(SUM), nanoseconds);
    }
}

/// The first one whose bound, 2^i µs, is not below.
#[inline(always)]
fn bucket(nanoseconds: u64) -> usize {
    let microseconds = nanoseconds.saturating_sub(1) / 1_000;
    let mut bits = u64::from(u64::BITS - microseconds.leading_zeros());
    // The verifier must see the bound on the very register that becomes the index, which compilers move elsewhere.
    // SAFETY: changes nothing but the operand.
    unsafe {
        asm!(
            "if {bits} > {last} goto +1",
            "goto +1",
            "{bits} = {last}",
            bits = inout(reg) bits,
            last = const BUCKETS - 1,
            options(nostack, nomem),
        )
    };
    bits as usize
}
