//! What the kernel knows of each sandbox, summed where it happens: nothing per event leaves the kernel.
//! `plain.rs` is the same without the programs that need BTF.
//!
//! | group | hooks | programs |
//! |---|---|---|
//! | runqueue | sched_switch | `runqueue_switch` |
//! | kvm | kvm_userspace_exit | `kvm_exit` |
//! | block | block_io_start, block_io_done, block_bio_backmerge, block_bio_frontmerge | `block_start block_done block_merge` |
//! | block, else | block_bio_queue, block_rq_issue, block_rq_complete | `bio_start request_issue request_done` |
//! | oom | mark_victim | `oom_victim` |
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod block;
mod kvm;
mod maps;
mod oom;
mod runqueue;
mod sum;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
