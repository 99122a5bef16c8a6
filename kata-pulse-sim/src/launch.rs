//! The processes of one sandbox, with the command lines of each runtime and VMM (kata.md 4.2, 4.3, 4.5, 4.6).
//! Programs are links to the simulator below `<root>/opt/kata`, where kata-deploy puts Kata's: the Go shim in `bin`,
//! the other in `runtime-rs/bin`. Their arguments name the real paths, whatever the root.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::burn::Burn;
use crate::kind::{Kind, Runtime, Vmm};
use crate::layout::{Places, Variant};
use crate::node::SandboxSpec;
use crate::process::{ShimProcess, install};
use crate::role::{JAILED, Start, USER};

/// Asks for processes of a sandbox.
#[derive(Debug, Clone)]
pub struct Processes {
    /// The simulator's program.
    pub simulator: PathBuf,
    /// What the VMM does from its start on.
    pub burn: Option<Burn>,
    /// A program of others as VMM, with its arguments; it becomes the VMM by `exec` at the latest.
    pub machine: Option<Vec<String>>,
}

impl Processes {
    pub fn of(simulator: impl Into<PathBuf>) -> Self {
        Self { simulator: simulator.into(), burn: None, machine: None }
    }
}

/// Starts programs of one sandbox.
#[derive(Debug)]
pub(crate) struct Launcher<'a> {
    pub(crate) root: &'a Path,
    pub(crate) id: &'a str,
    pub(crate) kind: Kind,
    pub(crate) variant: &'a Variant,
    pub(crate) simulator: &'a Path,
    pub(crate) machine: Option<&'a [String]>,
}

impl<'a> Launcher<'a> {
    /// `None`: a sandbox without processes.
    pub(crate) fn of(root: &'a Path, spec: &'a SandboxSpec) -> Option<Self> {
        let Processes { simulator, machine, .. } = spec.processes.as_ref()?;
        let (kind, variant, machine) = (spec.kind, &spec.variant, machine.as_deref());
        Some(Self { root, id: &spec.id, kind, variant, simulator, machine })
    }

    /// The simulator's, or a machine in its place.
    pub(crate) fn start_vmm(&self, shim: &mut ShimProcess) -> io::Result<()> {
        if let Some([program, arguments @ ..]) = self.machine {
            let (program, arguments) = (program.into(), arguments.to_vec());
            return shim.start_foreign("vmm", Start { program, arguments, environment: Vec::new() }).map(drop);
        }
        self.vmm()?.map_or(Ok(()), |start| shim.start_simulated("vmm", start).map(drop))
    }

    fn install(&self, folder: &str, name: &str) -> io::Result<PathBuf> {
        install(self.simulator, &self.root.join("opt/kata").join(folder), name)
    }

    /// The shim alone, in its bundle.
    pub(crate) fn shim(&self, bundle: &Path) -> io::Result<ShimProcess> {
        let go = self.kind.runtime == Runtime::Go;
        let program = self.install(if go { "bin" } else { "runtime-rs/bin" }, "containerd-shim-kata-v2")?;
        let id = ["-id", self.id];
        let rest = ["-namespace", "k8s.io", "-address", "/run/containerd/containerd.sock"];
        let publish = ["-publish-binary", "/usr/bin/containerd"];
        let mut command = Command::new(program);
        if go {
            command.args(rest).args(publish).args(id);
        } else {
            command.args(id).args(rest).args(publish);
        }
        ShimProcess::alone(command.current_dir(bundle))
    }

    /// `None`: this VMM shares no file system, or the shim itself does.
    pub(crate) fn virtiofsd(&self) -> io::Result<Option<Start>> {
        if matches!(self.kind.vmm, Vmm::Dragonball | Vmm::Firecracker | Vmm::Remote) {
            return Ok(None);
        }
        let real = self.places().real();
        let (shared, state) = (real.shared(), real.state());
        let (shared, state) = (shared.display(), state.display());
        let line = match self.kind.runtime {
            Runtime::Go => format!(
                "--syslog --cache=auto --shared-dir={shared}/shared --fd=3 --thread-pool-size=1 --announce-submounts"
            ),
            Runtime::Rs => format!(
                "--socket-path {state}/root/virtiofsd.sock --shared-dir {shared}/ro --cache auto \
                 --thread-pool-size=1 -o announce_submounts"
            ),
        };
        Ok(Some(started(self.install("libexec", "virtiofsd")?, &line)))
    }

    /// `None`: no process of its own.
    fn vmm(&self) -> io::Result<Option<Start>> {
        let (name, line) = match self.kind.vmm {
            Vmm::Dragonball | Vmm::Remote => return Ok(None),
            Vmm::Firecracker if self.variant.jailed => return self.jailer().map(Some),
            Vmm::Firecracker => ("firecracker", self.firecracker()),
            Vmm::Qemu => ("qemu-system-x86_64", self.qemu()),
            Vmm::CloudHypervisor => ("cloud-hypervisor", self.cloud_hypervisor()),
            Vmm::OpenVmm => ("openvmm", format!("--ttrpc {}/openvmm.sock", self.real_state())),
        };
        let mut start = started(self.install("bin", name)?, &line);
        if let Some(user) = self.variant.rootless {
            start.environment.push((USER.to_owned(), user.to_string()));
        }
        Ok(Some(start))
    }

    fn places(&self) -> Places {
        Places::new(self.root, self.id, self.kind, self.variant)
    }

    fn real_state(&self) -> String {
        self.places().real().state().display().to_string()
    }

    /// Go's directory of the VM; a VM of the factory has its own name there.
    fn real_vm(&self) -> String {
        let real = self.places().real();
        real.factory().or_else(|| real.vm()).unwrap_or_default().display().to_string()
    }

    fn qemu(&self) -> String {
        let id = self.id;
        if self.kind.runtime == Runtime::Rs {
            return format!("-name sandbox-{id} -nodefaults");
        }
        let (vm, factory) = (self.real_vm(), self.variant.factory.as_deref());
        let (name, uuid) = (factory.unwrap_or(id), factory.unwrap_or("7d7ef7ee-0001-4000-8000-000000000001"));
        format!(
            "-name sandbox-{name} -uuid {uuid} -pidfile {vm}/pid -qmp unix:fd=3,server=on,wait=off \
             -chardev socket,id=char0,path={vm}/vhost-fs.sock -no-user-config -nodefaults"
        )
    }

    fn cloud_hypervisor(&self) -> String {
        match self.kind.runtime {
            Runtime::Go => format!("--api-socket {}/clh-api.sock --seccomp false", self.real_vm()),
            Runtime::Rs => format!("--api-socket {}/ch-api.sock", self.real_state()),
        }
    }

    fn firecracker(&self) -> String {
        let places = self.places().real();
        match places.jail() {
            Some(jail) => {
                let jail = jail.display();
                format!("--api-sock {jail}/run/firecracker.socket --config-file {jail}/fcConfig.json")
            }
            None => format!("--api-sock {}/run/fc.sock --no-seccomp", self.real_state()),
        }
    }

    /// The program lies in the jail and is called `/firecracker` there.
    fn jailer(&self) -> io::Result<Start> {
        let places = self.places();
        let jail = places.jail().ok_or_else(|| io::Error::other("no jail"))?;
        let jailed = install(self.simulator, &jail, "firecracker")?;
        let (id, user) = (self.id, "--uid 0 --gid 0");
        let exec = "--exec-file /opt/kata/bin/firecracker";
        let line = match self.kind.runtime {
            Runtime::Go => format!(
                "--id {} {exec} {user} --chroot-base-dir /run/vc --daemonize -- --config-file /fcConfig.json",
                places.prefix()
            ),
            Runtime::Rs => format!("--id {id} {user} {exec} --chroot-base-dir /run/kata -- --api-sock /run//fc.sock"),
        };
        let mut start = started(self.install("bin", "jailer")?, &line);
        start.environment.push((JAILED.to_owned(), jailed.display().to_string()));
        Ok(start)
    }
}

fn started(program: PathBuf, line: &str) -> Start {
    let arguments = line.split_ascii_whitespace().map(str::to_owned).collect();
    Start { program, arguments, environment: Vec::new() }
}

/// The program that is running now.
pub fn simulator() -> io::Result<PathBuf> {
    std::env::current_exe()
}
