//! The eBPF part on real kernels: the running one, and Debian's 6.1 cloud kernel booted in QEMU, where every rung of
//! the ladder can be had. Both run the same program, `kata-pulse-probe`, which checks what the kernel tells.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::guest_kernel;
use crate::steps::{self, cargo, output};

const TRACEFS: &str = "/sys/kernel/tracing";
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Emulation is slow; a guest that hangs ends all the same.
const BOOT_SECONDS: &str = "400";

pub fn run() -> anyhow::Result<()> {
    let probe = build_probe()?;
    println!("== the running kernel");
    mount_tracefs()?;
    let here = report(&output(&mut Command::new(&probe))?)?;
    println!("== Debian's cloud kernel in QEMU");
    let folder = steps::root().join("target/lab");
    fs::create_dir_all(&folder)?;
    let kernel = guest_kernel::fetch()?;
    let initramfs = pack_initramfs(&folder, &probe)?;
    let there = report(&boot(&kernel, &initramfs)?)?;
    // On the second kernel every rung must have served.
    for rung in ["fexit", "kprobe", "syscalls", "plain", "plain without exits"] {
        if !there.lines().any(|line| line.starts_with(&format!("ok   {rung}: absolute path"))) {
            bail!("the rung {rung} did not serve on the second kernel");
        }
    }
    if failed(&here) || failed(&there) {
        bail!("a check of the probe failed, see above");
    }
    Ok(())
}

/// Static, so that it runs in an initramfs.
fn build_probe() -> anyhow::Result<PathBuf> {
    let mut build =
        cargo(&["build", "--package", "kata-pulse-probe", "--target", TARGET, "--target-dir", "target/lab/build"]);
    steps::run(build.env("RUSTFLAGS", "-C target-feature=+crt-static"))?;
    Ok(steps::root().join("target/lab/build").join(TARGET).join("debug/kata-pulse-probe"))
}

/// The agent never mounts anything; a test may.
fn mount_tracefs() -> anyhow::Result<()> {
    if Path::new(TRACEFS).join("events").exists() {
        return Ok(());
    }
    steps::run(Command::new("mount").args(["-t", "tracefs", "tracefs", TRACEFS]))
}

const INIT: &str = "#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /run /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t tracefs tracefs /sys/kernel/tracing
/bin/busybox mount -t tmpfs tmpfs /run
/bin/busybox mount -t devtmpfs dev /dev
echo PROBE BEGINS
/probe
echo PROBE ENDS
/bin/busybox poweroff -f
";

fn pack_initramfs(folder: &Path, probe: &Path) -> anyhow::Result<PathBuf> {
    let root = folder.join("initramfs");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(root.join("bin"))?;
    fs::create_dir_all(root.join("dev"))?;
    fs::copy("/bin/busybox", root.join("bin/busybox")).context("copy busybox; install busybox-static")?;
    fs::copy(probe, root.join("probe"))?;
    fs::write(root.join("init"), INIT)?;
    steps::run(Command::new("chmod").arg("755").arg(root.join("init")))?;
    let list = output(Command::new("find").arg(".").current_dir(&root))?;
    let image = folder.join("initramfs.cpio");
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--quiet"])
        .current_dir(&root)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(&image)?)
        .spawn()
        .context("start cpio")?;
    cpio.stdin.take().context("cpio's input")?.write_all(list.as_bytes())?;
    if !cpio.wait()?.success() {
        bail!("cpio could not pack {}", root.display());
    }
    Ok(image)
}

fn boot(kernel: &Path, initramfs: &Path) -> anyhow::Result<String> {
    let mut qemu = Command::new("timeout");
    qemu.args([BOOT_SECONDS, "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "1024", "-smp", "2"])
        .args(["-nographic", "-no-reboot", "-append", "console=ttyS0 panic=-1 quiet", "-kernel"])
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null());
    let text = output(&mut qemu)?.replace('\r', "");
    let begun = text.split_once("PROBE BEGINS").map(|(_, rest)| rest.to_owned());
    let Some(told) = begun.filter(|rest| rest.contains("PROBE ENDS")) else {
        bail!("the machine did not run the probe to its end; it said:\n{text}");
    };
    Ok(told)
}

fn report(text: &str) -> anyhow::Result<String> {
    println!("{}", text.trim());
    if !text.lines().any(is_sum) {
        bail!("the probe did not come to its sum");
    }
    Ok(text.to_owned())
}

fn is_sum(line: &str) -> bool {
    line.contains(" passed, ") && line.contains(" failed, ")
}

fn failed(text: &str) -> bool {
    text.lines().filter(|line| is_sum(line)).any(|line| !line.contains(" 0 failed"))
}
