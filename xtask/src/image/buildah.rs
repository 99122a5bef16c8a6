//! buildah with a store of its own: plain copies as layers, no daemon, no registry, no container runtime.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::debian::TRUSTED_INSIDE;
use crate::steps;

const BASE: &str = "localhost/debian";

pub struct Buildah {
    store: PathBuf,
    state: PathBuf,
    /// Where it keeps cache mounts.
    temporary: PathBuf,
}

impl Buildah {
    pub fn new(folder: &Path) -> anyhow::Result<Self> {
        let of = |name: &str| folder.join(name);
        let buildah = Self { store: of("store"), state: of("state"), temporary: of("cache") };
        fs::create_dir_all(&buildah.temporary)?;
        Ok(buildah)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(&self.store).arg("--runroot").arg(&self.state);
        command.args(["--storage-driver", "vfs"]).args(words).env("TMPDIR", &self.temporary);
        command
    }

    fn run(&self, words: &[&str]) -> anyhow::Result<()> {
        steps::run(&mut self.command(words))
    }

    /// What it prints, without the line's end.
    fn ask(&self, words: &[&str]) -> anyhow::Result<String> {
        let output = self.command(words).output().context("start buildah")?;
        if !output.status.success() {
            bail!("buildah {words:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Makes an image of a directory and says its name.
    pub fn import(&self, root: &Path) -> anyhow::Result<String> {
        let container = self.ask(&["from", "scratch"])?;
        self.ask(&["add", "--quiet", &container, &root.display().to_string(), "/"])?;
        self.run(&["config", "--env", &format!("CARGO_HTTP_CAINFO={TRUSTED_INSIDE}"), &container])?;
        self.ask(&["commit", "--quiet", "--rm", &container, BASE])?;
        Ok(BASE.to_owned())
    }

    pub fn build(&self, base: &str, name: &str, revision: &str) -> anyhow::Result<()> {
        let (base, revision) = (format!("DEBIAN={base}"), format!("REVISION={revision}"));
        let fixed = ["build", "--isolation", "chroot", "--pull-never", "--layers=false"];
        let words = ["--build-arg", &base, "--build-arg", &revision, "--tag", name, "."];
        self.run(&[&fixed[..], &words[..]].concat())
    }

    /// Copies an image's files to a new directory.
    pub fn unpack(&self, name: &str, to: &Path) -> anyhow::Result<PathBuf> {
        if to.exists() {
            fs::remove_dir_all(to).with_context(|| format!("remove {}", to.display()))?;
        }
        let container = self.ask(&["from", "--pull-never", name])?;
        let mounted = self.ask(&["mount", &container])?;
        steps::run(Command::new("cp").arg("--archive").arg(&mounted).arg(to))?;
        self.ask(&["rm", &container])?;
        Ok(to.to_owned())
    }

    /// Of an image, as the OCI specification has it.
    pub fn config(&self, name: &str) -> anyhow::Result<serde_json::Value> {
        let said: serde_json::Value = serde_json::from_str(&self.ask(&["inspect", "--type", "image", name])?)?;
        Ok(said["OCIv1"]["config"].clone())
    }

    /// Layers are whole copies: what is not needed is not kept.
    pub fn clear(&self) -> anyhow::Result<()> {
        self.ask(&["rm", "--all"])?;
        self.ask(&["rmi", "--all", "--force"])?;
        Ok(())
    }
}
