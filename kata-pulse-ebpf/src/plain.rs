//! The programs that need no BTF: loaded where the kernel has none, or refuses that of the whole object.
#![no_std]
#![no_main]

mod account;
mod directory;
mod hooks_plain;
mod maps;
mod process;
mod task;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
