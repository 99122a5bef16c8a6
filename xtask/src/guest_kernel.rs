//! The kernel that virtual machines of tests boot: Debian's cloud kernel, in `target/lab/kernel`. The lab and the tests of
//! the host's accounting use the same one; it is downloaded once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::steps::{self, output};

/// Unpacks the package that linux-image-cloud-amd64 depends on; nothing is installed.
pub fn fetch() -> anyhow::Result<PathBuf> {
    let folder = &steps::root().join("target/lab");
    fs::create_dir_all(folder)?;
    let unpacked = folder.join("kernel");
    if let Some(kernel) = find_kernel(&unpacked) {
        return Ok(kernel);
    }
    let archive = download_kernel(folder).or_else(|error| {
        println!("{error:#}; once more with fresh package lists");
        steps::run(Command::new("apt-get").args(["update", "--quiet"]))?;
        download_kernel(folder)
    })?;
    steps::run(Command::new("dpkg").arg("-x").arg(&archive).arg(&unpacked))?;
    find_kernel(&unpacked).context("the package holds no kernel")
}

/// The downloaded archive; those of earlier downloads are removed before.
fn download_kernel(folder: &Path) -> anyhow::Result<PathBuf> {
    for old in archives(folder)? {
        fs::remove_file(&old).with_context(|| format!("remove {}", old.display()))?;
    }
    let depends = output(Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]))?;
    let package = kernel_package(&depends).context("apt-cache names no kernel package")?;
    println!("downloading {package}");
    steps::run(Command::new("apt-get").args(["download", package]).current_dir(folder))?;
    match archives(folder)?.as_slice() {
        [archive] => Ok(archive.clone()),
        others => bail!("apt-get download {package} left {} archives instead of one", others.len()),
    }
}

fn kernel_package(depends: &str) -> Option<&str> {
    let mut packages = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    packages.find(|package| package.starts_with("linux-image-"))
}

fn archives(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let paths: Vec<_> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect())
}

fn find_kernel(unpacked: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(unpacked.join("boot")).ok()?;
    let names = entries.filter_map(|entry| Some(entry.ok()?.path()));
    names.into_iter().find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_what_the_metapackage_depends_on() {
        let depends = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n  Suggests: linux-doc\n";
        assert_eq!(kernel_package(depends), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(kernel_package("linux-image-cloud-amd64\n"), None);
        assert_eq!(kernel_package(""), None);
    }
}
