//! The agent's eBPF programs, all of them. `plain.rs` is the same without those that need BTF.
//!
//! | hook | programs |
//! |---|---|
//! | sched_process_exec, _fork, _exit | `exec_btf fork_btf exit_btf exit_btf_live`, else `exec_plain fork_plain exit_plain` |
//! | sched_process_free | `free_btf` |
//! | vfs_mkdir, vfs_rmdir | `mkdir_fexit rmdir_fexit`, else `mkdir_kprobe mkdir_kretprobe rmdir_kprobe rmdir_kretprobe` |
//! | mkdir, mkdirat, rmdir, unlinkat | `mkdir_enter mkdirat_enter rmdir_enter unlinkat_enter directory_exit`, on request |
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod account;
mod directory;
mod hooks_btf;
mod hooks_plain;
mod maps;
mod process;
mod release;
mod task;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
