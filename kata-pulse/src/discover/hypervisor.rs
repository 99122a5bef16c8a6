//! The table: executable and command line → role, VMM and the sandbox that the process *claims* to serve.
//!
//! In: what `/proc` says of one process. Out: a [`Claim`], which proves nothing: `membership` decides.
//! A new hypervisor is one row in `TABLE`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::sandbox::{ProcessRole, Runtime, SandboxId, Vmm};

/// How the sandbox id is found in the arguments.
#[derive(Clone, Copy, Debug)]
enum IdIn {
    /// `-name sandbox-<id>`, possibly followed by `,option`.
    QemuName,
    /// A path with the id as one component below Kata's directories.
    KataPath,
    /// `--id <id>`, where Go gives the first 32 characters only; else a path.
    JailerId,
    /// `-id <id>`.
    ShimFlag,
}

struct Row {
    /// Basename of the executable: the whole of it, or what it starts with.
    name: &'static str,
    prefix: bool,
    role: ProcessRole,
    vmm: Option<Vmm>,
    id: IdIn,
}

const fn row(name: &'static str, prefix: bool, role: ProcessRole, vmm: Option<Vmm>, id: IdIn) -> Row {
    Row { name, prefix, role, vmm, id }
}

const TABLE: &[Row] = &[
    row("containerd-shim-kata", true, ProcessRole::Shim, None, IdIn::ShimFlag),
    row("qemu-system-", true, ProcessRole::Vmm, Some(Vmm::Qemu), IdIn::QemuName),
    row("qemu-kvm", false, ProcessRole::Vmm, Some(Vmm::Qemu), IdIn::QemuName),
    row("cloud-hypervisor", true, ProcessRole::Vmm, Some(Vmm::CloudHypervisor), IdIn::KataPath),
    row("firecracker", false, ProcessRole::Vmm, Some(Vmm::Firecracker), IdIn::JailerId),
    row("stratovirt", false, ProcessRole::Vmm, Some(Vmm::Stratovirt), IdIn::QemuName),
    row("openvmm", false, ProcessRole::Vmm, Some(Vmm::OpenVmm), IdIn::KataPath),
    row("virtiofsd", false, ProcessRole::Virtiofsd, None, IdIn::KataPath),
    row("nydusd", false, ProcessRole::Virtiofsd, None, IdIn::KataPath),
];

/// What a process says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub role: ProcessRole,
    pub vmm: Option<Vmm>,
    pub sandbox: Option<ClaimedId>,
    /// Told by the place of the shim's executable.
    pub runtime: Option<Runtime>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimedId {
    Whole(SandboxId),
    /// Firecracker under Go: 32 characters of a longer id.
    Prefix(SandboxId),
}

impl ClaimedId {
    pub fn matches(&self, id: &SandboxId) -> bool {
        match self {
            Self::Whole(claimed) => claimed == id,
            Self::Prefix(claimed) => claimed.as_str() == id.firecracker_prefix(),
        }
    }
}

/// Whether an executable's name is worth a closer look. Called for every process of a scan.
pub fn is_interesting(exe: &Path) -> bool {
    find_row(exe).is_some()
}

/// What the process claims to be; `None` for everything that is not Kata's, and for the short-lived
/// `start` and `delete` calls of the shim.
pub fn classify(exe: &Path, argv: &[Vec<u8>]) -> Option<Claim> {
    let row = find_row(exe)?;
    let shim = if row.role == ProcessRole::Shim { read_shim(argv) } else { ShimWords::default() };
    if shim.is_transient {
        return None;
    }
    let sandbox = match row.id {
        IdIn::QemuName => qemu_name(argv),
        IdIn::KataPath => kata_path(argv),
        IdIn::JailerId => jailer_id(argv).or_else(|| kata_path(argv)),
        IdIn::ShimFlag => shim.id.and_then(whole),
    };
    let runtime = if row.role == ProcessRole::Shim { runtime_by_place(exe) } else { None };
    Some(Claim { role: row.role, vmm: row.vmm, sandbox, runtime })
}

fn find_row(exe: &Path) -> Option<&'static Row> {
    let name = exe.file_name()?.as_bytes();
    let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
    TABLE.iter().find(
        |row| {
            if row.prefix { name.starts_with(row.name.as_bytes()) } else { name == row.name.as_bytes() }
        },
    )
}

/// Flags of a shim that are followed by a value, which may be any word.
const SHIM_FLAGS_WITH_VALUE: [&[u8]; 6] = [b"namespace", b"address", b"publish-binary", b"id", b"bundle", b"socket"];
const SHIM_FLAGS_THAT_ANSWER: [&[u8]; 4] = [b"version", b"v", b"info", b"help"];

#[derive(Default)]
struct ShimWords<'a> {
    id: Option<&'a [u8]>,
    /// A call that answers, or starts or deletes a shim, and ends.
    is_transient: bool,
}

/// By flag, not by position: Go and runtime-rs differ in the order, and ids may be words such as `start`.
fn read_shim(argv: &[Vec<u8>]) -> ShimWords<'_> {
    let mut found = ShimWords::default();
    let mut words = argv.iter().skip(1).map(Vec::as_slice);
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix(b"-").map(|rest| rest.strip_prefix(b"-").unwrap_or(rest)) else {
            found.is_transient |= word == b"start" || word == b"delete";
            continue;
        };
        let (name, inline) = match flag.iter().position(|&byte| byte == b'=') {
            Some(at) => (&flag[..at], Some(&flag[at + 1..])),
            None => (flag, None),
        };
        let value = if SHIM_FLAGS_WITH_VALUE.contains(&name) { inline.or_else(|| words.next()) } else { None };
        if name == b"id" {
            found.id = value;
        }
        found.is_transient |= SHIM_FLAGS_THAT_ANSWER.contains(&name);
    }
    found
}

/// kata-deploy puts runtime-rs below `…/runtime-rs/`, the Go shim beside it; any other place tells nothing.
fn runtime_by_place(exe: &Path) -> Option<Runtime> {
    let folder = exe.parent()?;
    if folder.components().any(|component| component.as_os_str() == OsStr::new("runtime-rs")) {
        return Some(Runtime::Rust);
    }
    (folder == Path::new("/opt/kata/bin")).then_some(Runtime::Go)
}

fn qemu_name(argv: &[Vec<u8>]) -> Option<ClaimedId> {
    let value = flag_value(argv, &[b"-name"])?;
    let name = value.strip_prefix(b"sandbox-")?;
    whole(name.split(|&byte| byte == b',').next()?)
}

fn jailer_id(argv: &[Vec<u8>]) -> Option<ClaimedId> {
    let value = flag_value(argv, &[b"--id"])?;
    match whole(value)? {
        ClaimedId::Whole(id) if id.as_str().len() == 32 => Some(ClaimedId::Prefix(id)),
        claim => Some(claim),
    }
}

fn flag_value<'a>(argv: &'a [Vec<u8>], flags: &[&[u8]]) -> Option<&'a [u8]> {
    argv.windows(2).skip(1).find(|pair| flags.contains(&pair[0].as_slice())).map(|pair| pair[1].as_slice())
}

fn whole(raw: &[u8]) -> Option<ClaimedId> {
    SandboxId::parse(std::str::from_utf8(raw).ok()?).ok().map(ClaimedId::Whole)
}

/// Directories of Kata whose next path component is a sandbox id.
const ID_PARENTS: &[&str] =
    &["/run/vc/vm/", "/run/vc/sbs/", "/run/kata-containers/shared/sandboxes/", "/run/kata/firecracker/", "/run/kata/"];

fn kata_path(argv: &[Vec<u8>]) -> Option<ClaimedId> {
    argv.iter().skip(1).find_map(|argument| {
        let text = std::str::from_utf8(argument).ok()?;
        if let Some(rest) = after(text, "/run/vc/firecracker/") {
            return whole(rest.as_bytes()).map(|claim| match claim {
                ClaimedId::Whole(id) if id.as_str().len() == 32 => ClaimedId::Prefix(id),
                claim => claim,
            });
        }
        ID_PARENTS.iter().find_map(|parent| whole(after(text, parent)?.as_bytes()))
    })
}

/// The path component that follows `parent` in `text`.
fn after<'a>(text: &'a str, parent: &str) -> Option<&'a str> {
    let start = text.find(parent)? + parent.len();
    text[start..].split(['/', ',']).next().filter(|component| !component.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn claim(exe: &str, args: &str) -> Option<Claim> {
        let args = args.replace("<sid32>", &SID[..32]).replace("<sid>", SID);
        let argv: Vec<Vec<u8>> =
            std::iter::once(exe).chain(args.split_whitespace()).map(|argument| argument.as_bytes().to_vec()).collect();
        classify(Path::new(exe), &argv)
    }

    fn check(exe: &str, args: &str, role: ProcessRole, vmm: Option<Vmm>) {
        let claim = claim(exe, args).unwrap_or_else(|| panic!("{exe} {args} is not recognised"));
        assert_eq!((claim.role, claim.vmm), (role, vmm), "{exe}");
        assert!(claim.sandbox.expect(exe).matches(&SandboxId::parse(SID).unwrap()), "{exe} {args}");
    }

    #[test]
    fn every_command_line_of_kata_is_recognised() {
        use ProcessRole::{Shim, Virtiofsd, Vmm as V};
        for args in [
            "-namespace k8s.io -address /run/containerd/containerd.sock -publish-binary /usr/bin/containerd -id <sid>",
            "-id <sid> -namespace k8s.io -address x -publish-binary y -debug",
        ] {
            check("/opt/kata/bin/containerd-shim-kata-v2", args, Shim, None);
        }
        check("/opt/kata/bin/qemu-system-x86_64", "-name sandbox-<sid> -uuid 1", V, Some(Vmm::Qemu));
        check("/usr/libexec/qemu-kvm", "-name sandbox-<sid>,debug-threads=on", V, Some(Vmm::Qemu));
        check("/x/qemu-system-x86_64-snp-experimental", "-name sandbox-<sid>", V, Some(Vmm::Qemu));
        check("/x/qemu-system-x86_64 (deleted)", "-name sandbox-<sid>", V, Some(Vmm::Qemu));
        for path in ["/run/vc/vm/<sid>/clh-api.sock", "/run/kata/<sid>/ch-api.sock", "/run/user/7/run/kata/<sid>/x"] {
            check("/x/cloud-hypervisor", &format!("--api-socket {path}"), V, Some(Vmm::CloudHypervisor));
        }
        check("/run/vc/firecracker/x/root/firecracker", "--id <sid32> --start-time-us 1", V, Some(Vmm::Firecracker));
        check("/firecracker", "--id <sid> --api-sock /run//fc.sock", V, Some(Vmm::Firecracker));
        check("/x/firecracker", "--api-sock /run/vc/firecracker/<sid32>/root/run/f.socket", V, Some(Vmm::Firecracker));
        check("/x/firecracker", "--api-sock /run/kata/<sid>/run/fc.sock", V, Some(Vmm::Firecracker));
        check("/x/stratovirt", "-name sandbox-<sid> -qmp unix:/x", V, Some(Vmm::Stratovirt));
        check("/x/openvmm", "--ttrpc /run/kata/<sid>/openvmm.sock", V, Some(Vmm::OpenVmm));
        let shared = "--shared-dir=/run/kata-containers/shared/sandboxes/<sid>/shared --fd=3";
        check("/x/virtiofsd", shared, Virtiofsd, None);
        check("/x/virtiofsd", "--socket-path /run/kata/<sid>/root/virtiofsd.sock", Virtiofsd, None);
        check("/x/nydusd", "virtiofs --apisock /run/vc/vm/<sid>/nydusd-api.sock", Virtiofsd, None);
    }

    #[test]
    fn transient_shim_calls_and_strangers_are_nothing() {
        assert_eq!(claim("/opt/kata/bin/containerd-shim-kata-v2", "-id <sid> start"), None);
        assert_eq!(claim("/opt/kata/bin/containerd-shim-kata-v2", "-id <sid> -bundle /x delete"), None);
        check("/x/containerd-shim-kata-v2", "--namespace=start -address delete --id=<sid>", ProcessRole::Shim, None);
        assert_eq!(claim("/usr/bin/containerd-shim-runc-v2", "-id <sid>"), None);
        assert_eq!(claim("/usr/bin/python3", "-name sandbox-<sid>"), None);
    }

    #[test]
    fn a_uuid_machine_of_the_vm_factory_claims_no_sandbox() {
        let claim = claim("/x/qemu-system-x86_64", "-name other -uuid 1").unwrap();
        assert_eq!(claim.sandbox, None);
    }

    #[test]
    fn the_place_of_the_shim_tells_the_runtime() {
        let runtime = |exe| claim(exe, "-id <sid>").unwrap().runtime;
        assert_eq!(runtime("/opt/kata/bin/containerd-shim-kata-v2"), Some(Runtime::Go));
        assert_eq!(runtime("/opt/kata/runtime-rs/bin/containerd-shim-kata-v2"), Some(Runtime::Rust));
        assert_eq!(runtime("/usr/local/bin/containerd-shim-kata-v2"), None);
    }
}
