//! Where a sandbox lies on the node: directories, sockets and state files of each runtime, VMM and variant
//! (kata.md 1.1, 1.6). Pure: nothing here touches the disk.

use std::path::{Path, PathBuf};

use crate::kind::{Kind, Runtime, Vmm};

/// What is not as usual about a sandbox's places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variant {
    /// Firecracker below `/run/kata/firecracker/<sid>/root` (runtime-rs), double-forked by its jailer (Go).
    pub jailed: bool,
    /// The VMM runs as this user: state below `/run/user/<uid>`, the monitor socket stays.
    pub rootless: Option<u32>,
    /// Go: the VM came from the factory under this UUID.
    pub factory: Option<String>,
    /// Go 3.1.0: the monitor socket lies below `/run/kata`.
    pub go_3_1_0: bool,
}

/// The places of one sandbox. All paths begin with the node's root.
#[derive(Debug, Clone)]
pub struct Places {
    root: PathBuf,
    id: String,
    kind: Kind,
    variant: Variant,
}

pub(crate) fn base(root: &Path, runtime: Runtime) -> PathBuf {
    root.join(match runtime {
        Runtime::Go => "run/vc/sbs",
        Runtime::Rs => "run/kata",
    })
}

impl Places {
    pub fn new(root: &Path, id: &str, kind: Kind, variant: &Variant) -> Self {
        Self { root: root.to_owned(), id: id.to_owned(), kind, variant: variant.clone() }
    }

    /// The same sandbox with its real paths, as command lines and state files name them.
    pub fn real(&self) -> Self {
        Self { root: "/".into(), ..self.clone() }
    }

    fn go(&self) -> bool {
        self.kind.runtime == Runtime::Go
    }

    /// What holds `shim-monitor.sock`.
    pub fn monitor(&self) -> PathBuf {
        let runtime = if self.go() && self.variant.go_3_1_0 { Runtime::Rs } else { self.kind.runtime };
        base(&self.root, runtime).join(&self.id)
    }

    pub fn socket(&self) -> PathBuf {
        self.monitor().join("shim-monitor.sock")
    }

    /// Below this the VMM's user may write.
    fn owned(&self) -> PathBuf {
        match self.variant.rootless {
            Some(uid) => self.root.join(format!("run/user/{uid}")),
            None => self.root.clone(),
        }
    }

    /// Go's `/run/vc/sbs/<sid>`, runtime-rs' `/run/kata/<sid>`, wherever the VMM's user has them.
    pub fn state(&self) -> PathBuf {
        base(&self.owned(), self.kind.runtime).join(&self.id)
    }

    pub fn state_file(&self) -> PathBuf {
        match (self.go(), self.jail()) {
            (true, _) => self.state().join("persist.json"),
            (false, Some(jail)) => jail.join("state.json"),
            (false, None) => self.state().join("state.json"),
        }
    }

    /// Go's `/run/vc/vm/<sid>`; with a VM of the factory this is a link to [`Self::factory`].
    pub fn vm(&self) -> Option<PathBuf> {
        let has = self.go() && !matches!(self.kind.vmm, Vmm::Firecracker | Vmm::Remote);
        has.then(|| self.owned().join("run/vc/vm").join(&self.id))
    }

    /// The factory's directory of a VM.
    pub fn factory(&self) -> Option<PathBuf> {
        let uuid = self.variant.factory.as_ref()?;
        self.vm().map(|vm| vm.with_file_name(uuid))
    }

    /// Firecracker's root directory: Go has it jailed or not, cut to 32 characters.
    pub fn jail(&self) -> Option<PathBuf> {
        match (self.kind.vmm, self.go()) {
            (Vmm::Firecracker, true) => Some(self.root.join("run/vc/firecracker").join(self.prefix()).join("root")),
            (Vmm::Firecracker, false) if self.variant.jailed => {
                Some(self.root.join("run/kata/firecracker").join(&self.id).join("root"))
            }
            _ => None,
        }
    }

    /// What Go calls the sandbox in Firecracker's paths and arguments.
    pub fn prefix(&self) -> &str {
        let end = self.id.char_indices().nth(32).map_or(self.id.len(), |(at, _)| at);
        &self.id[..end]
    }

    pub fn shared(&self) -> PathBuf {
        self.root.join("run/kata-containers/shared/sandboxes").join(&self.id)
    }

    /// The file in which Kata notes the VMM's pid.
    pub fn pid_file(&self) -> Option<PathBuf> {
        match self.kind.vmm {
            Vmm::Qemu => self.vm().map(|vm| vm.join("pid")),
            Vmm::Firecracker if self.go() && self.variant.jailed => {
                self.jail().map(|jail| jail.join("firecracker.pid"))
            }
            _ => None,
        }
    }

    /// The hybrid-vsock socket that leads to the guest's agent. QEMU's is our invention, since it has AF_VSOCK only.
    pub fn agent(&self) -> Option<PathBuf> {
        let (vm, state) = (self.vm(), self.state());
        match (self.kind.vmm, self.go()) {
            (Vmm::CloudHypervisor, true) => vm.map(|vm| vm.join("clh.sock")),
            (Vmm::CloudHypervisor, false) => Some(state.join("ch-vm.sock")),
            (Vmm::Dragonball, _) => Some(state.join("root/kata.hvsock")),
            (Vmm::OpenVmm, _) => Some(state.join("vsock.sock")),
            (Vmm::Firecracker, _) => Some(self.jail().unwrap_or(state).join("kata.hvsock")),
            (Vmm::Qemu, _) => Some(vm.unwrap_or(state).join("qemu.hvsock")),
            (Vmm::Remote, _) => None,
        }
    }

    /// The body of `/agent-url`: the agent's socket below the root if it was `made`, else its real path.
    pub fn agent_url(&self, made: bool) -> String {
        let id = &self.id;
        let places = if made { self.clone() } else { self.real() };
        match (self.kind.vmm, places.agent()) {
            (Vmm::Qemu, _) if !made => "vsock://3:1024".to_owned(),
            (_, Some(socket)) => format!("hvsock://{}:1024", socket.display()),
            (_, None) if self.go() => format!("remote:///run/peerpod/{id}.sock"),
            (_, None) => format!("remote:///run/peerpod/{id}.sock:1024"),
        }
    }

    /// Normal teardown of runtime-rs looks elsewhere or does nothing: directory and dead socket stay (kata.md 1.5).
    pub fn leaves_dead_socket(&self) -> bool {
        let elsewhere = matches!(self.kind.vmm, Vmm::Remote | Vmm::OpenVmm) || self.jail().is_some();
        self.variant.rootless.is_some() || (!self.go() && elsewhere)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(kind: &str, variant: &Variant) -> Places {
        Places::new(Path::new("/"), &"ab".repeat(32), kind.parse().expect("a kind"), variant)
    }

    fn told(path: Option<PathBuf>) -> String {
        path.map_or_else(String::new, |path| path.display().to_string().replace(&"ab".repeat(32), "SID"))
    }

    #[test]
    fn each_vmm_has_its_agent_where_kata_has_it() {
        let usual = Variant::default();
        for (kind, expected) in [
            ("go-clh", "/run/vc/vm/SID/clh.sock"),
            ("rs-clh", "/run/kata/SID/ch-vm.sock"),
            ("rs-dragonball", "/run/kata/SID/root/kata.hvsock"),
            ("rs-openvmm", "/run/kata/SID/vsock.sock"),
            ("rs-firecracker", "/run/kata/SID/kata.hvsock"),
            ("rs-remote", ""),
        ] {
            assert_eq!(told(places(kind, &usual).agent()), expected, "{kind}");
        }
        let jailed = Variant { jailed: true, ..usual };
        let rs = places("rs-firecracker", &jailed);
        assert_eq!(told(rs.agent()), "/run/kata/firecracker/SID/root/kata.hvsock");
        assert_eq!(told(Some(rs.state_file())), "/run/kata/firecracker/SID/root/state.json");
        assert_eq!(told(Some(rs.socket())), "/run/kata/SID/shim-monitor.sock");
        let go = places("go-firecracker", &jailed);
        let half = "ab".repeat(16);
        assert_eq!(told(go.pid_file()), format!("/run/vc/firecracker/{half}/root/firecracker.pid"));
        assert_eq!(told(go.agent()), format!("/run/vc/firecracker/{half}/root/kata.hvsock"));
    }

    #[test]
    fn a_rootless_vmm_moves_the_state_and_not_the_socket() {
        let rootless = Variant { rootless: Some(1234), ..Variant::default() };
        let go = places("go-qemu", &rootless);
        assert_eq!(told(Some(go.state_file())), "/run/user/1234/run/vc/sbs/SID/persist.json");
        assert_eq!(told(Some(go.socket())), "/run/vc/sbs/SID/shim-monitor.sock");
        let rs = places("rs-clh", &rootless);
        assert_eq!(told(Some(rs.state_file())), "/run/user/1234/run/kata/SID/state.json");
        assert_eq!(told(Some(rs.socket())), "/run/kata/SID/shim-monitor.sock");
    }

    #[test]
    fn go_3_1_0_had_its_socket_in_the_wrong_place() {
        let wrong = places("go-qemu", &Variant { go_3_1_0: true, ..Variant::default() });
        assert_eq!(told(Some(wrong.socket())), "/run/kata/SID/shim-monitor.sock");
        assert_eq!(told(Some(wrong.state_file())), "/run/vc/sbs/SID/persist.json");
    }

    #[test]
    fn the_agent_url_is_real_unless_there_is_a_socket() {
        let kind: Kind = "rs-clh".parse().expect("a kind");
        let here = Places::new(Path::new("/tmp/x"), "s1", kind, &Variant::default());
        assert_eq!(here.agent_url(false), "hvsock:///run/kata/s1/ch-vm.sock:1024");
        assert_eq!(here.agent_url(true), "hvsock:///tmp/x/run/kata/s1/ch-vm.sock:1024");
        assert_eq!(places("go-qemu", &Variant::default()).agent_url(false), "vsock://3:1024");
    }
}
