//! The plan → programs in the kernel.
//!
//! Cost: aya parses the kernel's BTF once for its loader and once for the typed programs (20-35 ms and
//! some 20 MB each, one after the other, both dropped here).

use std::collections::BTreeMap;

use aya::{Btf, Ebpf, EbpfError as AyaError, EbpfLoader, VerifierLogLevel};

use super::plan::Plan;
use crate::kernel::{Object, ProgramStatus, bytes, climb};

/// Where the host's processes are told from others.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HostNamespaces {
    pub mount_inode: Option<u32>,
    /// Device (in the kernel's encoding) and inode.
    pub pid: Option<(u64, u64)>,
}

/// Programs in the kernel and those that are not.
pub(super) struct Loaded {
    pub ebpf: Ebpf,
    pub programs: Vec<ProgramStatus>,
}

/// The ring of aya-log when nobody reads it: the smallest that a kernel takes.
const UNUSED_LOG_BYTES: u32 = 4096;
/// Above every level of aya-log.
const LOG_EVERYTHING: u8 = 0xff;

/// Everything that [`attach`] needs to open an object once more.
struct Opener<'a> {
    plan: &'a Plan,
    host: HostNamespaces,
    log: bool,
}

impl Opener<'_> {
    fn open(&self, verifier: VerifierLogLevel) -> Result<Ebpf, AyaError> {
        let mut globals: BTreeMap<&str, u32> = self.plan.globals.clone();
        if let Some(inode) = self.host.mount_inode {
            globals.insert("HOST_MNTNS", inode);
        }
        let (device, inode) = self.host.pid.unwrap_or((0, 0));
        let level = if self.log { LOG_EVERYTHING } else { 0 };
        let mut loader = EbpfLoader::new();
        // The loader has parsed the kernel's BTF by now; our objects have no CO-RE relocations.
        loader.btf(None).verifier_log_level(verifier);
        for (name, value) in &globals {
            loader.override_global(name, value, self.plan.with_btf);
        }
        loader.override_global("HOST_PIDNS_DEV", &device, true);
        loader.override_global("HOST_PIDNS_INO", &inode, true);
        loader.override_global("AYA_LOG_LEVEL", &level, true);
        if !self.log {
            loader.map_max_entries("AYA_LOGS", UNUSED_LOG_BYTES);
        }
        loader.load(bytes(Object::Discovery, self.plan.with_btf))
    }
}

/// Loads the object and attaches what attaches.
pub(super) fn attach(plan: &Plan, host: HostNamespaces, log: bool) -> Result<Loaded, AyaError> {
    let opener = Opener { plan, host, log };
    // Without its text the verifier is fast; the text is fetched for a program that fails.
    let mut ebpf = opener.open(VerifierLogLevel::DISABLE)?;
    let btf = if plan.with_btf { Btf::from_sys_fs().ok() } else { None };
    let mut programs = Vec::new();
    for ladder in &plan.ladders {
        climb(&|verifier| opener.open(verifier), &mut ebpf, btf.as_ref(), ladder, &mut programs);
    }
    Ok(Loaded { ebpf, programs })
}
