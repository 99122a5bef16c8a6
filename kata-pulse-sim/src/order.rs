//! What the runtimes make on the node, and in which order they make and remove it (kata.md 1.2 to 1.4, 12).

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;

use crate::kind::{Runtime, SimError, Vmm};
use crate::launch::Launcher;
use crate::layout::Places;
use crate::node::SandboxSpec;
use crate::process::ShimProcess;
use crate::state::{self, StatePids};

/// A socket's path in the kernel, with its final zero.
const SOCKET_PATH_BYTES: usize = 108;

/// A sandbox that nobody serves yet.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) listener: UnixListener,
    pub(crate) agent: Option<UnixListener>,
    pub(crate) shim: Option<ShimProcess>,
}

/// Makes one sandbox step by step.
#[derive(Debug)]
pub(crate) struct Making<'a> {
    root: &'a Path,
    spec: &'a SandboxSpec,
    places: &'a Places,
    shim: Option<ShimProcess>,
    agent: Option<UnixListener>,
}

impl<'a> Making<'a> {
    pub(crate) fn new(root: &'a Path, spec: &'a SandboxSpec, places: &'a Places) -> Self {
        Self { root, spec, places, shim: None, agent: None }
    }

    pub(crate) fn run(mut self) -> Result<Made, SimError> {
        self.start_shim()?;
        let listener = match self.spec.kind.runtime {
            Runtime::Go => self.go()?,
            Runtime::Rs => self.runtime_rs()?,
        };
        self.give_away()?;
        Ok(Made { listener, agent: self.agent, shim: self.shim })
    }

    /// A rootless VMM's directories are its user's; the files in them are root's.
    fn give_away(&self) -> Result<(), SimError> {
        let Some(user) = self.spec.variant.rootless else { return Ok(()) };
        let top = self.root.join(format!("run/user/{user}"));
        for directory in [Some(self.places.state()), self.places.vm()].into_iter().flatten() {
            for path in directory.ancestors().take_while(|path| path.starts_with(&top)) {
                chown(path, Some(user), None).map_err(SimError::io("chown", path))?;
            }
        }
        Ok(())
    }

    /// The socket comes last, when the VM is up.
    fn go(&mut self) -> Result<UnixListener, SimError> {
        let (state, shared) = (self.places.state(), self.places.shared());
        if self.spec.kind.vmm == Vmm::Qemu {
            make_dir(&state, 0o750)?;
        }
        make_dir(&shared.join("shared"), 0o750)?;
        make_dir(&shared.join("mounts"), 0o750)?;
        self.go_vm_dirs()?;
        self.start_vm()?;
        make_dir(&state, 0o700)?;
        let persist = state::persist(self.spec, self.places, self.pids(), &self.agent_url());
        write(&self.places.state_file(), &persist.to_string())?;
        let own = state.join(&self.spec.id);
        make_dir(&own, 0o700)?;
        write(&own.join("persist.json"), "{}")?;
        make_dir(&self.places.monitor(), 0o700)?;
        let socket = self.places.socket();
        let listener = bind(&socket, 0o600, self.shim.as_ref())?;
        if self.shim.is_some() {
            let real = self.places.real().socket();
            write(&bundle(self.root, &self.spec.id).join("monitor_address"), &format!("unix://{}", real.display()))?;
        }
        Ok(listener)
    }

    fn go_vm_dirs(&self) -> Result<(), SimError> {
        match (self.places.vm(), self.places.factory()) {
            (Some(vm), Some(made)) => {
                make_dir(&made, 0o750)?;
                symlink(&made, &vm).map_err(SimError::io("link", &vm))?;
            }
            (Some(vm), None) => make_dir(&vm, 0o750)?,
            (None, _) => {}
        }
        self.places.jail().map_or(Ok(()), |jail| make_dir(&jail.join("run"), 0o750))
    }

    /// The socket comes first, before there is a VM.
    fn runtime_rs(&mut self) -> Result<UnixListener, SimError> {
        make_dir(&self.places.monitor(), 0o755)?;
        let listener = bind(&with_slashes(&self.places.socket()), 0o755, self.shim.as_ref())?;
        let (state, shared) = (self.places.state(), self.places.shared());
        let inner = if self.spec.kind.vmm == Vmm::Firecracker { "run" } else { "root" };
        make_dir(&self.places.jail().unwrap_or_else(|| state.join(inner)), 0o755)?;
        make_dir(&shared.join("rw"), 0o750)?;
        make_dir(&shared.join("ro"), 0o750)?;
        self.start_vm()?;
        write(&self.places.state_file(), &state::state(self.spec, self.places).to_string())?;
        Ok(listener)
    }

    fn agent_url(&self) -> String {
        self.places.agent_url(self.agent.is_some())
    }

    fn start_shim(&mut self) -> Result<(), SimError> {
        let Some(launcher) = Launcher::of(self.root, self.spec) else { return Ok(()) };
        let bundle = bundle(self.root, &self.spec.id);
        make_dir(&bundle, 0o711)?;
        let shim = launcher.shim(&bundle).map_err(SimError::io("start the shim in", &bundle))?;
        write(&bundle.join("shim.pid"), &shim.pid().to_string())?;
        self.shim = Some(shim);
        Ok(())
    }

    /// virtiofsd, then the VMM with its socket to the agent.
    fn start_vm(&mut self) -> Result<(), SimError> {
        if let (Some(launcher), Some(shim)) = (Launcher::of(self.root, self.spec), &mut self.shim) {
            let failed =
                |error| SimError::Io { action: "start processes of", path: (&self.spec.id).into(), source: error };
            if let Some(start) = launcher.virtiofsd().map_err(failed)? {
                shim.start_simulated("virtiofsd", start).map_err(failed)?;
            }
            launcher.start_vmm(shim).map_err(failed)?;
        }
        if let (Some(file), pid @ 1..) = (self.places.pid_file(), self.pids().vmm) {
            write(&file, &pid.to_string())?;
        }
        if let (true, Some(socket)) = (self.spec.agent, self.places.agent()) {
            self.agent = Some(bind(&socket, 0o755, None)?);
        }
        Ok(())
    }

    fn pids(&self) -> StatePids {
        let pid = |role: &str| self.shim.as_ref().and_then(|shim| shim.helpers.get(role).copied());
        let virtiofsd = pid("virtiofsd").unwrap_or_default();
        StatePids { vmm: pid("vmm").unwrap_or(self.spec.vmm_pid), virtiofsd }
    }
}

/// Where containerd has a sandbox's bundle.
pub(crate) fn bundle(root: &Path, id: &str) -> PathBuf {
    root.join("run/containerd/io.containerd.runtime.v2.task/k8s.io").join(id)
}

/// What a burning VMM writes to.
pub(crate) fn disk(root: &Path, id: &str) -> PathBuf {
    root.join("var/lib/kata-pulse-sim").join(id)
}

/// Go, once the VM is gone: everything but the shim; the sandbox's directory last.
pub(crate) fn remove_go(spec: &SandboxSpec, places: &Places) -> Result<(), SimError> {
    remove_vm_dirs(places)?;
    let file = places.state_file();
    let text = fs::read(&file).map_err(SimError::io("read", &file))?;
    if let Ok(running) = serde_json::from_slice(&text) {
        write(&file, &state::persist_stopped(spec.kind.vmm, running).to_string())?;
    }
    // With the remote hypervisor it was seen to go after the sandbox's directory.
    let late = spec.kind.vmm == Vmm::Remote;
    if !late {
        remove_tree(&places.shared())?;
    }
    if places.monitor() != places.state() {
        remove_go_tree(&places.state())?;
    }
    if !places.leaves_dead_socket() {
        remove_go_tree(&places.monitor())?;
    }
    if late { remove_tree(&places.shared()) } else { Ok(()) }
}

fn remove_vm_dirs(places: &Places) -> Result<(), SimError> {
    let jail = places.jail().and_then(|jail| jail.parent().map(Path::to_owned));
    for path in [places.vm(), places.factory(), jail].into_iter().flatten() {
        remove_tree(&path)?;
    }
    Ok(())
}

/// runtime-rs: the sandbox's directory goes first, or never.
pub(crate) fn remove_runtime_rs(places: &Places) -> Result<(), SimError> {
    if !places.leaves_dead_socket() {
        remove_tree(&places.monitor())?;
    }
    if let Some(jail) = places.jail() {
        remove_tree(jail.parent().unwrap_or(&jail))?;
    }
    for part in ["ro", "rw", ""] {
        remove_tree(&places.shared().join(part))?;
    }
    Ok(())
}

/// All that can be left, as the shim's `delete` does it.
pub(crate) fn sweep(places: &Places) -> Result<(), SimError> {
    remove_vm_dirs(places)?;
    for path in [places.shared(), places.state(), places.monitor()] {
        remove_tree(&path)?;
    }
    Ok(())
}

pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<(), SimError> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(SimError::io("create", path))
}

pub(crate) fn write(path: &Path, text: &str) -> Result<(), SimError> {
    fs::write(path, text).map_err(SimError::io("write", path))
}

/// runtime-rs binds to `///run/kata/…`; not where a long root leaves no room for two more bytes.
fn with_slashes(path: &Path) -> PathBuf {
    let longer = PathBuf::from(format!("//{}", path.display()));
    if longer.as_os_str().len() < SOCKET_PATH_BYTES { longer } else { path.to_owned() }
}

/// A listening socket; with a shim it is the shim that listens, so that peers see its pid.
pub(crate) fn bind(path: &Path, mode: u32, shim: Option<&ShimProcess>) -> Result<UnixListener, SimError> {
    let failed = |error: std::io::Error| SimError::Io { action: "bind", path: path.to_owned(), source: error };
    let socket = bound(path).map_err(|errno| failed(errno.into()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(SimError::io("chmod", path))?;
    match shim {
        Some(shim) => shim.listen(std::os::fd::AsFd::as_fd(&socket)).map_err(failed)?,
        None => rustix::net::listen(&socket, 1024).map_err(|errno| failed(errno.into()))?,
    }
    UnixListener::from_std(socket.into()).map_err(failed)
}

/// A path that is too long for a socket is reached through its directory.
fn bound(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(rustix::io::Errno::INVAL);
    };
    let directory = rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&directory))).join(name);
    let fits = path.as_os_str().len() < SOCKET_PATH_BYTES;
    rustix::net::bind(&socket, &SocketAddrUnix::new(if fits { path } else { &short })?)?;
    Ok(socket)
}

/// Rust's own: children by descriptor, the directory itself by its absolute path.
pub(crate) fn remove_tree(path: &Path) -> Result<(), SimError> {
    let removed = if path.is_symlink() { fs::remove_file(path) } else { fs::remove_dir_all(path) };
    match removed {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(SimError::Io { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Go's os.RemoveAll: directories, then files, and the last call is `unlinkat(parent, "<sid>", AT_REMOVEDIR)`.
fn remove_go_tree(dir: &Path) -> Result<(), SimError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(SimError::io("list", dir))? {
        let path = entry.map_err(SimError::io("list", dir))?.path();
        if path.is_dir() { remove_tree(&path)? } else { files.push(path) }
    }
    files.sort(); // persist.json before shim-monitor.sock, as seen
    for path in files {
        fs::remove_file(&path).map_err(SimError::io("remove", &path))?;
    }
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Ok(());
    };
    rustix::fs::open(parent, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|parent| rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR))
        .map_err(|errno| SimError::Io { action: "remove", path: dir.to_owned(), source: errno.into() })
}
