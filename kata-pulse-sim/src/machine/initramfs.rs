//! What the machine boots: Debian's kernel as it lies unpacked, and a busybox that obeys its serial line.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// In the order in which they must be inserted.
const MODULES: [(&str, &str); 9] = [
    ("virtio", "virtio_ring"),
    ("virtio", "virtio"),
    ("virtio", "virtio_pci_modern_dev"),
    ("virtio", "virtio_pci_legacy_dev"),
    ("virtio", "virtio_pci"),
    ("block", "virtio_blk"),
    ("../net/core", "failover"),
    ("net", "net_failover"),
    ("net", "virtio_net"),
];

/// Each line that comes is a command; its code is told after its output.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs -o size=90% tmp /tmp
/bin/busybox --install -s /bin
export PATH=/bin
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo -onlcr
echo GUEST READY
while read -r line; do
  eval \"$line\"
  echo \"GUEST DONE $?\"
done
";

/// An unpacked kernel package.
#[derive(Debug, Clone)]
pub struct GuestKernel {
    pub image: PathBuf,
    /// `lib/modules/<release>/kernel/drivers`
    drivers: PathBuf,
}

impl GuestKernel {
    /// In a folder into which Debian's package was unpacked; `None` if it is not there.
    pub fn find(unpacked: &Path) -> Option<Self> {
        let only = |folder: PathBuf, starts: &str| {
            let entries = fs::read_dir(folder).ok()?;
            let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
            paths.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(starts)))
        };
        let drivers = only(unpacked.join("lib/modules"), "")?.join("kernel/drivers");
        Some(Self { image: only(unpacked.join("boot"), "vmlinuz")?, drivers })
    }
}

/// Packs the initramfs below `folder` and says where it is.
pub fn pack(kernel: &GuestKernel, folder: &Path) -> io::Result<PathBuf> {
    let root = folder.join("initramfs");
    for directory in ["bin", "dev", "modules"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    let mut order = String::new();
    for (place, name) in MODULES {
        let from = kernel.drivers.join(place).join(format!("{name}.ko"));
        fs::copy(&from, root.join("modules").join(format!("{name}.ko")))
            .map_err(|error| io::Error::new(error.kind(), format!("copy {}: {error}", from.display())))?;
        order += name;
        order.push('\n');
    }
    fs::write(root.join("modules/order"), order)?;
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    let image = folder.join("initramfs.cpio");
    archive(&root, &image)?;
    Ok(image)
}

fn archive(root: &Path, image: &Path) -> io::Result<()> {
    let list = Command::new("find").arg(".").current_dir(root).output()?.stdout;
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--quiet"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(image)?)
        .spawn()?;
    if let Some(mut input) = cpio.stdin.take() {
        input.write_all(&list)?;
    }
    let status = cpio.wait()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("cpio: {status}"))) }
}
