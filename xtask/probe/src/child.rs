//! What the probe does in processes of its own: it starts itself again, under the name that is needed.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, bail};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::UnshareFlags,
    time::{ClockId, clock_gettime},
};

/// Everything after this argument is for [`run`].
pub const FLAG: &str = "--probe-child";

/// `exit N`, `threads N`, `burn MS`, `hang`, `fork N`, `forge-mkdir BASE NAME`, `forge-exec FILE ID`.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["exit", code] => std::process::exit(code.parse()?),
        ["threads", code] => {
            let threads: Vec<_> = (0..8).map(|_| std::thread::spawn(|| ())).collect();
            for thread in threads {
                thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
            }
            std::thread::sleep(Duration::from_millis(20));
            std::process::exit(code.parse()?)
        }
        ["burn", milliseconds] => burn(Duration::from_millis(milliseconds.parse()?))?,
        ["hang"] => std::thread::sleep(Duration::from_secs(60)),
        ["fork", code] => {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["-name", "sandbox-forked", FLAG, "exit", code]).status()?;
        }
        ["forge-mkdir", base, name] => {
            enter_own_mount_namespace()?;
            let base = Path::new(base);
            mount("tmpfs", base, "tmpfs", MountFlags::empty(), None).context("mount a tmpfs")?;
            std::fs::create_dir(base.join(name))?;
            std::fs::remove_dir(base.join(name))?;
        }
        ["forge-exec", file, id] => {
            enter_own_mount_namespace()?;
            Command::new(file).args(["-name", id, FLAG, "exit", "0"]).status()?;
        }
        _ => bail!("unknown child: {words:?}"),
    }
    Ok(())
}

/// In four threads, of which the first ends last.
fn burn(whole: Duration) -> anyhow::Result<()> {
    let used = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    let threads: Vec<_> =
        (0..3).map(|_| std::thread::spawn(move || while used(ClockId::ThreadCPUTime) < whole / 4 {})).collect();
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
    }
    while used(ClockId::ProcessCPUTime) < whole {}
    Ok(())
}

#[expect(unsafe_code, reason = "unshare of a descriptor table would be unsound; this is a mount namespace")]
fn enter_own_mount_namespace() -> anyhow::Result<()> {
    // SAFETY: only the mount namespace is left; descriptors and memory stay shared, and this process has
    // a single thread.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.context("leave the mount namespace")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    // The root of an initramfs cannot be changed, and is private from the start.
    let _ = mount_change("/", private);
    Ok(())
}
