//! A root of Debian 12 as the public image has it, made by debootstrap.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::steps;

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

/// Makes it once; a half of one is made anew.
pub fn root(folder: &Path) -> anyhow::Result<PathBuf> {
    let (root, half) = (folder.join("debian"), folder.join("debian.half"));
    if root.exists() {
        return Ok(root);
    }
    if half.exists() {
        fs::remove_dir_all(&half).with_context(|| format!("remove {}", half.display()))?;
    }
    println!("image: a root of Debian by debootstrap");
    let mut make = Command::new("debootstrap");
    steps::run(make.args(["--variant=minbase", "bookworm"]).arg(&half).arg(MIRROR))?;
    fs::write(half.join("etc/apt/sources.list"), SOURCES)?;
    fs::write(half.join(SPEED.0), SPEED.1)?;
    fs::copy(TRUSTED, half.join(TRUSTED_INSIDE.trim_start_matches('/')))
        .with_context(|| format!("copy {TRUSTED}; apt-get install ca-certificates"))?;
    fs::rename(&half, &root)?;
    Ok(root)
}
