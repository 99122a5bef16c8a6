//! Where the kernel describes itself: reads the files, understands nothing.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::format::{Format, parse_format};

/// The kernel's type information, some 5 MB; or why not, and what to do about it.
pub fn read_btf(sysfs: &Path) -> Result<Vec<u8>, String> {
    let path = sysfs.join("kernel/btf/vmlinux");
    fs::read(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!(
            "no {}: a kernel with CONFIG_DEBUG_INFO_BTF=y has it; in a container, mount the host's /sys",
            path.display()
        ),
        _ => format!("read {}: {error}", path.display()),
    })
}

/// Where tracefs is mounted: the given place, else its usual ones; or what to do about it.
pub fn find_tracefs(sysfs: &Path, given: Option<&Path>) -> Result<PathBuf, String> {
    let candidates = match given {
        Some(path) => vec![path.to_owned()],
        None => vec![sysfs.join("kernel/tracing"), sysfs.join("kernel/debug/tracing")],
    };
    candidates.iter().find(|path| path.join("events").is_dir()).cloned().ok_or_else(|| {
        let place = candidates.first().map(|path| path.display().to_string()).unwrap_or_default();
        format!("tracefs is not at {place}: mount -t tracefs tracefs {place}")
    })
}

/// The records of those of these tracepoints (`category:name`) that the kernel has.
pub fn read_formats(tracefs: &Path, names: &[&'static str]) -> BTreeMap<&'static str, Format> {
    let read = names.iter().filter_map(|&name| {
        let path = tracefs.join("events").join(name.replace(':', "/")).join("format");
        fs::read_to_string(path).ok().map(|text| (name, parse_format(&text)))
    });
    read.collect()
}
