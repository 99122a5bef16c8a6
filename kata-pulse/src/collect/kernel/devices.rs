//! Device numbers → names of disks.

use std::path::Path;

/// `vda` for the device and for each of its partitions; `254:3` if the host has no such device any more. `device` as
/// the kernel keeps it: major << 20 | minor.
pub(super) fn read_name(sysfs: &Path, device: u32) -> String {
    let numbers = format!("{}:{}", device >> 20, device & 0xf_ffff);
    name(&sysfs.join("dev/block").join(&numbers)).unwrap_or(numbers)
}

fn name(link: &Path) -> Option<String> {
    let place = link.canonicalize().ok()?;
    let disk = if place.join("partition").exists() { place.parent()? } else { &place };
    Some(disk.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_partition_has_its_disks_name_and_what_is_gone_its_numbers() {
        let sysfs = tempfile::tempdir().unwrap();
        let disk = sysfs.path().join("devices/virtio1/block/vda");
        fs::create_dir_all(disk.join("vda1")).unwrap();
        fs::write(disk.join("vda1/partition"), "1\n").unwrap();
        let links = sysfs.path().join("dev/block");
        fs::create_dir_all(&links).unwrap();
        symlink(&disk, links.join("254:0")).unwrap();
        symlink(disk.join("vda1"), links.join("254:1")).unwrap();
        let read = |minor| read_name(sysfs.path(), (254_u32 << 20) | minor);
        assert_eq!([read(0), read(1), read(2)], ["vda", "vda", "254:2"]);
    }
}
