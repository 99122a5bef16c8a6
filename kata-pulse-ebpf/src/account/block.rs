//! Block I/O of sandboxes' processes: whose it is, is told where it begins, since at its end any process may be the
//! current one. The end is found by device and sector.
//!
//! A request is accounted for its first piece when it begins; what is merged into it later is told on its own. Kernels
//! before 6.5 do not tell of that beginning: there pieces (bios) are accounted when they are queued, and only what their
//! process itself hands to the device is timed, from then on.

use aya_ebpf::{Global, helpers::bpf_ktime_get_ns, macros::tracepoint, programs::TracePointContext};
use kata_pulse_common::account::{
    ACCOUNTED_BLOCK, BLOCK_WORDS, BYTES, BlockKey, FULL_BLOCK, OP_DISCARD, OP_FLUSH, OP_READ, OP_WRITE, REQUESTS,
};

use crate::{
    maps::{
        BLOCK, DEVICES, O_COMPLETE_DEV, O_COMPLETE_SECTOR, O_DONE_DEV, O_DONE_SECTOR, O_ISSUE_BYTES, O_ISSUE_DEV,
        O_ISSUE_RWBS, O_ISSUE_SECTOR, O_MERGE_DEV, O_MERGE_RWBS, O_MERGE_SECTORS, O_QUEUE_DEV, O_QUEUE_RWBS,
        O_QUEUE_SECTORS, O_START_BYTES, O_START_DEV, O_START_RWBS, O_START_SECTOR, Place, Request, UNDER_WAY, count,
        current_slot, read,
    },
    sum::{add, observe},
};

const SECTOR_BYTES: u64 = 512;
/// BPF_NOEXIST: another CPU may have been first.
const ONLY_NEW: u64 = 1;

/// block:block_io_start
#[tracepoint]
pub fn block_start(ctx: TracePointContext) -> u32 {
    let _ = starts(&ctx);
    0
}

#[inline(always)]
fn starts(ctx: &TracePointContext) -> Option<()> {
    let slot = current_slot()?;
    let bytes = u64::from(read::<u32>(ctx, &O_START_BYTES)?);
    let operation = operation(read(ctx, &O_START_RWBS)?, bytes)?;
    let key = [slot, read(ctx, &O_START_DEV)?, operation];
    account(key, bytes)?;
    begin(key, read(ctx, &O_START_SECTOR)?)
}

/// block:block_bio_backmerge, block:block_bio_frontmerge
#[tracepoint]
pub fn block_merge(ctx: TracePointContext) -> u32 {
    let _ = merges(&ctx);
    0
}

#[inline(always)]
fn merges(ctx: &TracePointContext) -> Option<()> {
    let slot = current_slot()?;
    let bytes = u64::from(read::<u32>(ctx, &O_MERGE_SECTORS)?) * SECTOR_BYTES;
    let operation = operation(read(ctx, &O_MERGE_RWBS)?, bytes)?;
    let words = words([slot, read(ctx, &O_MERGE_DEV)?, operation])?;
    // SAFETY: the map just gave it out, and BYTES is a word of it.
    unsafe { add(words.add(BYTES), bytes) };
    Some(())
}

/// block:block_bio_queue
#[tracepoint]
pub fn bio_start(ctx: TracePointContext) -> u32 {
    let _ = bio_starts(&ctx);
    0
}

#[inline(always)]
fn bio_starts(ctx: &TracePointContext) -> Option<()> {
    let slot = current_slot()?;
    let sectors = u64::from(read::<u32>(ctx, &O_QUEUE_SECTORS)?);
    let operation = operation(read(ctx, &O_QUEUE_RWBS)?, sectors)?;
    account([slot, read(ctx, &O_QUEUE_DEV)?, operation], sectors * SECTOR_BYTES)
}

/// block:block_rq_issue
#[tracepoint]
pub fn request_issue(ctx: TracePointContext) -> u32 {
    let _ = issues(&ctx);
    0
}

#[inline(always)]
fn issues(ctx: &TracePointContext) -> Option<()> {
    let slot = current_slot()?;
    let operation = operation(read(ctx, &O_ISSUE_RWBS)?, u64::from(read::<u32>(ctx, &O_ISSUE_BYTES)?))?;
    let key = [slot, read(ctx, &O_ISSUE_DEV)?, operation];
    words(key)?;
    begin(key, read(ctx, &O_ISSUE_SECTOR)?)
}

/// block:block_io_done
#[tracepoint]
pub fn block_done(ctx: TracePointContext) -> u32 {
    let _ = ends(&ctx, &O_DONE_DEV, &O_DONE_SECTOR);
    0
}

/// block:block_rq_complete
#[tracepoint]
pub fn request_done(ctx: TracePointContext) -> u32 {
    let _ = ends(&ctx, &O_COMPLETE_DEV, &O_COMPLETE_SECTOR);
    0
}

#[inline(always)]
fn account(key: BlockKey, bytes: u64) -> Option<()> {
    let words = words(key)?;
    // SAFETY: the map just gave it out, and both are words of it.
    unsafe {
        add(words.add(BYTES), bytes);
        add(words.add(REQUESTS), 1);
    }
    count(ACCOUNTED_BLOCK);
    Some(())
}

#[inline(always)]
fn begin(key: BlockKey, sector: u64) -> Option<()> {
    let [slot, device, operation] = key;
    // SAFETY: no arguments, no effect.
    let since = unsafe { bpf_ktime_get_ns() };
    let place = Place { sector, device: u64::from(device) };
    UNDER_WAY.insert(place, Request { since, slot, operation }, 0).ok()
}

#[inline(always)]
fn ends(ctx: &TracePointContext, device: &Global<u32>, sector: &Global<u32>) -> Option<()> {
    let device: u32 = read(ctx, device)?;
    let place = Place { sector: read(ctx, sector)?, device: u64::from(device) };
    // SAFETY: copied at once.
    let Request { since, slot, operation } = unsafe { *UNDER_WAY.get_ptr(place)? };
    let _ = UNDER_WAY.remove(place);
    // Only what still is there: the sandbox may have been forgotten.
    let words = BLOCK.get_ptr_mut([slot, device, operation])?;
    // SAFETY: no arguments, no effect.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the map just gave it out, and it begins with a histogram.
    unsafe { observe(words.cast(), now.saturating_sub(since)) };
    Some(())
}

/// The words of this key, all zero if it is new.
#[inline(always)]
fn words(key: BlockKey) -> Option<*mut u64> {
    if let Some(words) = BLOCK.get_ptr_mut(key) {
        return Some(words.cast());
    }
    // What the agent looks for by device must be found so.
    if DEVICES.get_ptr(key[1]).is_some() || DEVICES.insert(key[1], 0_u32, 0).is_ok() {
        let _ = BLOCK.insert(key, [0_u64; BLOCK_WORDS], ONLY_NEW);
    }
    let words = BLOCK.get_ptr_mut(key);
    if words.is_none() {
        count(FULL_BLOCK);
    }
    words.map(|words| words.cast())
}

/// From the kernel's letters: `F` in front is a flush before the data, if there are any. `None`: moves no data and is
/// no flush.
#[inline(always)]
fn operation(letters: [u8; 2], length: u64) -> Option<u32> {
    let [first, second] = letters;
    let letter = if first != b'F' {
        first
    } else if length == 0 {
        return Some(OP_FLUSH);
    } else {
        second
    };
    match letter {
        b'R' => Some(OP_READ),
        b'W' => Some(OP_WRITE),
        b'D' => Some(OP_DISCARD),
        _ => None,
    }
}
