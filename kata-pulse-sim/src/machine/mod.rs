//! A real virtual machine: QEMU under emulation with Debian's cloud kernel and a busybox that does what it is told on its
//! serial line. In: a folder that holds the unpacked kernel package (`cargo xtask setup` makes it), a [`Machine`].
//! Out: the command line for [`crate::Processes::machine`], and a [`Console`] once it has booted.
//!
//! Nothing here needs KVM. A machine boots in about three seconds of CPU.

mod console;
mod initramfs;
mod network;

use std::path::{Path, PathBuf};

pub use console::Console;
pub use initramfs::{GuestKernel, pack};
pub use network::{GUEST_ADDRESS, OUTSIDE_ADDRESS, PodNetwork};

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
/// Programs that a machine, its initramfs or its network need besides.
const PROGRAMS: [&str; 5] = ["/bin/busybox", "/usr/bin/cpio", "/usr/bin/nsenter", "/usr/sbin/tc", "/usr/sbin/ip"];

/// How the host's page cache is used for a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskCache {
    /// Not at all: `O_DIRECT`.
    None,
    Writeback,
}

#[derive(Debug, Clone)]
pub struct Disk {
    /// Raw, and as large as the disk.
    pub file: PathBuf,
    pub cache: DiskCache,
}

/// A machine that may be started.
#[derive(Debug)]
pub struct Machine<'a> {
    pub id: &'a str,
    pub kernel: &'a GuestKernel,
    pub initramfs: &'a Path,
    pub memory_mib: u32,
    /// Its serial line, where a [`Console`] listens.
    pub console: &'a Path,
    pub disk: Option<Disk>,
    pub network: Option<&'a PodNetwork>,
}

impl Machine<'_> {
    /// What is missing on this machine, if anything is.
    pub fn missing() -> Option<&'static str> {
        std::iter::once(QEMU).chain(PROGRAMS).find(|program| !Path::new(program).exists())
    }

    /// With Kata's name for the machine; its threads have names, as with Kata's `enable_debug`.
    pub fn command(&self) -> Vec<String> {
        let mut line: Vec<String> = Vec::new();
        if let Some(network) = self.network {
            line.extend(["/usr/bin/nsenter".into(), format!("--net={}", network.pod().display()), "--".into()]);
        }
        line.push(QEMU.into());
        line.extend(["-name".into(), format!("sandbox-{},debug-threads=on", self.id)]);
        let fixed =
            "-nodefaults -no-user-config -display none -no-reboot -machine q35 -accel tcg,thread=multi -cpu max -smp 2";
        line.extend(fixed.split(' ').map(str::to_owned));
        line.extend(["-m".into(), self.memory_mib.to_string()]);
        line.extend(["-kernel".into(), self.kernel.image.display().to_string()]);
        line.extend(["-initrd".into(), self.initramfs.display().to_string()]);
        line.extend(["-append".into(), "console=ttyS0 panic=-1 quiet loglevel=0".into()]);
        line.extend(["-chardev".into(), format!("socket,id=console,path={}", self.console.display())]);
        line.extend(["-serial".into(), "chardev:console".into()]);
        if let Some(Disk { file, cache }) = &self.disk {
            let cache = if *cache == DiskCache::None { "none" } else { "writeback" };
            let drive = format!("file={},format=raw,if=none,id=disk,cache={cache},aio=threads", file.display());
            line.extend(["-drive".into(), drive, "-device".into(), "virtio-blk-pci,drive=disk".into()]);
        }
        if let Some(network) = self.network {
            let tap = format!("tap,id=nic,ifname={},script=no,downscript=no", network.tap());
            let device = format!("virtio-net-pci,netdev=nic,mac={},romfile=", network.mac());
            line.extend(["-netdev".into(), tap, "-device".into(), device]);
        }
        line
    }
}
