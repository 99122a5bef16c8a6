//! Builds the image of `Dockerfile` without an engine, looks into it, and runs it on a simulated node.
//!
//! A Debian root of debootstrap is the base, so that no image registry is asked; buildah does the rest. Everything is
//! below `target/image`, and what Cargo fetched and compiled there is used again by the next build.

mod buildah;
mod content;
mod debian;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::node::{Node, scratch};
use crate::steps::{self, cargo};
use crate::{demo, http, setup};
use buildah::Buildah;

const FOLDER: &str = "target/image";
/// As the image is called in the local store.
const NAME: &str = "localhost/kata-pulse";
const SANDBOXES: u32 = 3;

#[derive(clap::Args)]
pub struct Options {
    /// Keep the built image in the local store below target/image.
    #[arg(long)]
    keep: bool,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    setup::run()?;
    let folder = steps::root().join(FOLDER);
    let revision = revision();
    let buildah = Buildah::new(&folder)?;
    // What an interrupted build left.
    buildah.clear()?;
    let base = buildah.import(&debian::root(&folder)?)?;
    buildah.build(&base, NAME, &revision)?;
    let root = buildah.unpack(NAME, &folder.join("root"))?;
    content::check(&root, &buildah.config(NAME)?, &revision)?;
    run_on_node(&root, &revision)?;
    if !options.keep {
        buildah.clear()?;
    }
    Ok(())
}

/// What the agent in the image is to say of itself.
fn revision() -> String {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let output = output.ok().filter(|output| output.status.success());
    output.map_or("unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The program sees nothing but its image, the host's proc and sys, and the node's directories.
fn run_on_node(image: &Path, revision: &str) -> anyhow::Result<()> {
    steps::run(&mut cargo(&["build", "--package", "kata-pulse-sim"]))?;
    let agent = contained(image, &scratch())?;
    let mut node = Node::start_by(Path::new("target/debug"), agent, SANDBOXES, &["--processes"], &[])?;
    demo::check(&mut node, SANDBOXES)?;
    let build = http::get(node.address, "/metrics?filter_family=kata_pulse_build_info")?.1;
    for label in ["ebpf=\"embedded\"", &format!("revision=\"{revision}\"")] {
        ensure!(build.contains(label), "the image's agent does not say {label}: {build}");
    }
    let sandboxes = http::get(node.address, "/sandboxes")?.1;
    let machines = sandboxes.matches("\"role\":\"vmm\"").count();
    println!("image: ready after {:.2?}, {SANDBOXES} sandboxes with {machines} VMMs found", node.ready_after);
    ensure!(machines > 0, "no process was found through the host's proc: {sandboxes}");
    Ok(())
}

/// A command that becomes the image's program, in a mount namespace of its own where it has what a pod mounts.
fn contained(image: &Path, node: &Path) -> anyhow::Result<Command> {
    let mounted: [PathBuf; 3] = ["/proc".into(), "/sys".into(), node.to_owned()];
    let mut script = String::from("set -e; image=$1; shift; ");
    for path in &mounted {
        let inside = image.join(path.strip_prefix("/")?);
        std::fs::create_dir_all(&inside).with_context(|| format!("create {}", inside.display()))?;
        script += &format!("mount --rbind {} {}; ", path.display(), inside.display());
    }
    script += "exec chroot \"$image\" /kata-pulse \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]).arg(image);
    Ok(command)
}
