//! A root of Debian 12 as the public image has it, made by debootstrap.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::{setup, steps};

const MIRROR: &str = "http://deb.debian.org/debian";
/// The compiler is among the security updates.
const SOURCES: &str = "deb http://deb.debian.org/debian bookworm main
deb http://deb.debian.org/debian bookworm-updates main
deb http://deb.debian.org/debian-security bookworm-security main
";
/// Also as the public image has it: dpkg does not wait for the disk after each file.
const SPEED: (&str, &str) = ("etc/dpkg/dpkg.cfg.d/docker-apt-speedup", "force-unsafe-io\n");
/// What this machine trusts, which may be more than Debian does: a proxy of the company that it is in.
const TRUSTED: &str = "/etc/ssl/certs/ca-certificates.crt";
pub const TRUSTED_INSIDE: &str = "/trusted.crt";

/// Makes it once, since it takes a minute; a half of one is made anew.
pub fn root(folder: &Path) -> anyhow::Result<PathBuf> {
    let (root, half) = (folder.join("debian"), folder.join("debian.half"));
    if !root.exists() {
        if half.exists() {
            fs::remove_dir_all(&half).with_context(|| format!("remove {}", half.display()))?;
        }
        println!("image: a root of Debian by debootstrap");
        let mut make = Command::new("debootstrap");
        steps::run(make.args(["--variant=minbase", "bookworm"]).arg(&half).arg(MIRROR))?;
        fs::rename(&half, &root)?;
    }
    furnish(&root)?;
    Ok(root)
}

/// With what a Debian root of this project's needs besides.
fn furnish(root: &Path) -> anyhow::Result<()> {
    fs::write(root.join("etc/apt/sources.list"), SOURCES)?;
    fs::write(root.join(SPEED.0), SPEED.1)?;
    copy(Path::new(TRUSTED), &root.join(TRUSTED_INSIDE.trim_start_matches('/')))?;
    // It took a minute to compile, for the same Debian.
    copy(&setup::bpf_linker()?, &root.join("usr/local/bin/bpf-linker"))
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("copy {} to {}", from.display(), to.display()))
}
