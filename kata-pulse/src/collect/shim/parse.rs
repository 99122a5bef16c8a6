//! The text of a shim's page → [`ShimSample`]. Pure, one pass, no allocation but for names.
//!
//! The guest writes part of this text. Only `kata_guest_*` is taken from it; whatever it says under other names, or
//! in labels that no rule here asks for, changes nothing. Lines without meaning for us cost one search for their end.
//! Of a series that is there twice the first counts: shims put a series out once, so the second is somebody's trick.

use memchr::memchr;

use super::types::{CPU, DISK, Dropped, FILESYSTEM, Filesystem, Items, LOAD, MEMORY, NETWORK, ShimSample, TASKS, VM};

/// Bounds on what one page may hold.
#[derive(Clone, Copy, Debug)]
pub struct ParseLimits {
    pub samples: usize,
    /// Of a label's value.
    pub name_bytes: usize,
    /// Interfaces, and disks, on one page.
    pub devices: usize,
}

impl Default for ParseLimits {
    fn default() -> Self {
        Self { samples: 20_000, name_bytes: 128, devices: 64 }
    }
}

/// `whole`: the body was not cut short, so that its last line counts even without an end.
pub fn parse(body: &[u8], whole: bool, limits: ParseLimits) -> ShimSample {
    let mut sample = ShimSample::default();
    let mut rest = body;
    let mut lines = 0;
    while !rest.is_empty() {
        let line = match memchr(b'\n', rest) {
            Some(end) => {
                let line = &rest[..end];
                rest = &rest[end + 1..];
                line
            }
            None if whole => std::mem::take(&mut rest),
            None => break,
        };
        if line.first().is_none_or(|&first| first == b'#') {
            continue;
        }
        lines += 1;
        if lines > limits.samples {
            sample.dropped.samples += 1;
            continue;
        }
        if line.starts_with(b"kata_guest_") {
            sample.guest_answered = true;
            if take_line(&line[b"kata_guest_".len()..], &mut sample, limits).is_none() {
                sample.dropped.malformed_lines += 1;
            }
        } else if line.starts_with(b"kata_agent_") {
            sample.guest_answered = true;
        }
    }
    sample
}

/// `None`: the line is no sample.
fn take_line(line: &[u8], sample: &mut ShimSample, limits: ParseLimits) -> Option<()> {
    let brace = memchr(b'{', line)?;
    let family = &line[..brace];
    let wanted: &[&[u8]] = &[
        b"cpu_time",
        b"meminfo",
        b"netdev_stat",
        b"diskstat",
        b"vm_stat",
        b"tasks",
        b"load",
        b"filesystem_bytes",
        b"filesystem_inodes",
    ];
    if !wanted.contains(&family) {
        return Some(());
    }
    let mut labels = Labels::default();
    let after = labels.parse(&line[brace + 1..])?;
    let item = labels.item?;
    let dropped = &mut sample.dropped;
    match family {
        b"cpu_time" => match labels.cpu? {
            b"total" => put(&mut sample.cpu_total, &CPU, item, after, dropped),
            b"0" => put(&mut sample.cpu_zero, &CPU, item, after, dropped),
            _ => Some(()),
        },
        b"meminfo" => put(&mut sample.memory, &MEMORY, item, after, dropped),
        b"vm_stat" => put(&mut sample.vm, &VM, item, after, dropped),
        b"tasks" => put(&mut sample.tasks, &TASKS, item, after, dropped),
        b"load" => put(&mut sample.load, &LOAD, item, after, dropped),
        b"netdev_stat" => {
            let mut unused = Items::default();
            let wanted = NETWORK.iter().any(|name| name.as_bytes() == item);
            let items = wanted.then(|| device(&mut sample.interfaces, labels.interface?, limits, dropped)).flatten();
            put(items.unwrap_or(&mut unused), &NETWORK, item, after, dropped)
        }
        b"filesystem_bytes" | b"filesystem_inodes" => {
            let (mount, device) = (labels.mount?, labels.device?);
            let Some(filesystem) = filesystem(&mut sample.filesystems, mount, device, limits, dropped) else {
                return Some(());
            };
            let items = if family == b"filesystem_bytes" { &mut filesystem.bytes } else { &mut filesystem.inodes };
            put(items, &FILESYSTEM, item, after, dropped)
        }
        _ => {
            let mut unused = Items::default();
            let wanted = DISK.iter().any(|name| name.as_bytes() == item);
            let items = wanted.then(|| device(&mut sample.disks, labels.disk?, limits, dropped)).flatten();
            put(items.unwrap_or(&mut unused), &DISK, item, after, dropped)
        }
    }
}

/// Stores a value under its name; names that nobody asks for are skipped without a look at the value.
fn put<const N: usize>(
    items: &mut Items<N>,
    names: &[&str; N],
    item: &[u8],
    value: &[u8],
    dropped: &mut Dropped,
) -> Option<()> {
    let Some(at) = names.iter().position(|name| name.as_bytes() == item) else { return Some(()) };
    let value = parse_value(value)?;
    if !value.is_finite() {
        dropped.non_finite += 1;
    } else if items.0[at].is_some() {
        dropped.duplicates += 1;
    } else {
        items.0[at] = Some(value);
    }
    Some(())
}

/// The items of the device of this name; `None` if there can be none, which is counted.
fn device<'a, const N: usize>(
    devices: &'a mut Vec<(Box<str>, Items<N>)>,
    name: &[u8],
    limits: ParseLimits,
    dropped: &mut Dropped,
) -> Option<&'a mut Items<N>> {
    // Series of one device follow each other on every real page.
    let known = match devices.last() {
        Some((last, _)) if last.as_bytes() == name => Some(devices.len() - 1),
        _ => devices.iter().position(|(known, _)| known.as_bytes() == name),
    };
    let at = match known {
        Some(at) => at,
        None => {
            let Some(name) = plain_name(name, limits).filter(|_| devices.len() < limits.devices) else {
                dropped.names += 1;
                return None;
            };
            devices.push((name.into(), Items::default()));
            devices.len() - 1
        }
    };
    Some(&mut devices[at].1)
}

/// The file system of this mount and device; `None` if there can be none, which is counted.
fn filesystem<'a>(
    filesystems: &'a mut Vec<Filesystem>,
    mount: &[u8],
    device: &[u8],
    limits: ParseLimits,
    dropped: &mut Dropped,
) -> Option<&'a mut Filesystem> {
    let is_it = |known: &Filesystem| known.mount.as_bytes() == mount && known.device.as_bytes() == device;
    let at = match filesystems.iter().position(is_it) {
        Some(at) => at,
        None => {
            let names = plain_name(mount, limits).zip(plain_name(device, limits));
            let Some((mount, device)) = names.filter(|_| filesystems.len() < limits.devices) else {
                dropped.names += 1;
                return None;
            };
            filesystems.push(Filesystem { mount: mount.into(), device: device.into(), ..Filesystem::default() });
            filesystems.len() - 1
        }
    };
    filesystems.get_mut(at)
}

/// A name of a device: printable ASCII, nothing that would need an escape on a page.
fn plain_name(raw: &[u8], limits: ParseLimits) -> Option<&str> {
    let plain = raw.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
    (!raw.is_empty() && raw.len() <= limits.name_bytes && plain).then(|| std::str::from_utf8(raw).ok())?
}

/// The labels that any family here has; others are read over.
#[derive(Default)]
struct Labels<'a> {
    item: Option<&'a [u8]>,
    cpu: Option<&'a [u8]>,
    interface: Option<&'a [u8]>,
    disk: Option<&'a [u8]>,
    mount: Option<&'a [u8]>,
    device: Option<&'a [u8]>,
}

impl<'a> Labels<'a> {
    /// Reads up to the closing brace; gives what follows it.
    fn parse(&mut self, mut rest: &'a [u8]) -> Option<&'a [u8]> {
        loop {
            if let Some(after) = rest.strip_prefix(b"}") {
                return Some(after);
            }
            let equals = memchr(b'=', rest)?;
            let name = &rest[..equals];
            let (value, after) = quoted(&rest[equals + 1..])?;
            // The first of two equal names counts, as with series.
            let slot = match name {
                b"item" => Some(&mut self.item),
                b"cpu" => Some(&mut self.cpu),
                b"interface" => Some(&mut self.interface),
                b"disk" => Some(&mut self.disk),
                b"mount" => Some(&mut self.mount),
                b"device" => Some(&mut self.device),
                _ => None,
            };
            if let Some(slot) = slot
                && slot.is_none()
            {
                *slot = Some(value);
            }
            rest = after.strip_prefix(b",").unwrap_or(after);
        }
    }
}

/// A value in quotes, escapes as they are: a name with one is refused later.
fn quoted(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.strip_prefix(b"\"")?;
    let mut from = 0;
    loop {
        let end = from + memchr(b'"', &text[from..])?;
        let backslashes = text[..end].iter().rev().take_while(|&&byte| byte == b'\\').count();
        if backslashes % 2 == 0 {
            return Some((&text[..end], &text[end + 1..]));
        }
        from = end + 1;
    }
}

/// A space, the number, and perhaps a timestamp that does not matter.
fn parse_value(text: &[u8]) -> Option<f64> {
    let text = text.strip_prefix(b" ")?.trim_ascii();
    let number = text.split(|&byte| byte == b' ').next()?;
    if !number.is_empty() && number.len() <= 15 && number.iter().all(u8::is_ascii_digit) {
        let digits = number.iter().fold(0_u64, |value, digit| value * 10 + u64::from(digit - b'0'));
        return Some(digits as f64);
    }
    std::str::from_utf8(number).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GO: &[u8] = include_bytes!("../../../testdata/shim/go-remote-4.1.0.prom");
    const RUST: &[u8] = include_bytes!("../../../testdata/shim/rust-remote-4.1.0.prom");
    const HUNG: &[u8] = include_bytes!("../../../testdata/shim/go-remote-4.1.0-hung-first-part.prom");
    const GUEST: &[u8] = include_bytes!("../../../testdata/shim/agent-4.1.0-2vcpu.prom");

    fn parse_whole(body: &[u8]) -> ShimSample {
        parse(body, true, ParseLimits::default())
    }

    #[test]
    fn the_numbers_of_a_real_guest_are_read() {
        let sample = parse_whole(GUEST);
        assert_eq!(sample.dropped, Dropped::default());
        assert_eq!(sample.cpu_total.get(&CPU, "user"), Some(4890.0));
        assert_eq!(sample.cpu_zero.get(&CPU, "system"), Some(1290.0));
        assert_eq!(sample.tasks.get(&TASKS, "max"), Some(56.0));
        let names: Vec<_> = sample.interfaces.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["eth0", "lo"]);
        assert_eq!(sample.interfaces[0].1.get(&NETWORK, "sent_bytes"), Some(938.0));
        assert_eq!(sample.disks[0].1.get(&DISK, "sectors_written"), Some(12846.0));
    }

    #[test]
    fn whole_pages_of_real_shims_are_read_whatever_the_order_of_parts() {
        for page in [GO, RUST] {
            let sample = parse_whole(page);
            assert!(sample.guest_answered);
            assert_eq!(sample.dropped, Dropped::default());
            assert!(sample.memory.0.iter().all(Option::is_some) && sample.cpu_total.0.iter().all(Option::is_some));
        }
        assert!(!parse_whole(HUNG).guest_answered);
    }

    #[test]
    fn numbers_in_every_notation_are_read() {
        for (text, value) in [("1.234567e+06", 1_234_567.0), ("0", 0.0), ("12.5", 12.5), ("7 1700000000000", 7.0)] {
            let line = format!("kata_guest_meminfo{{item=\"cached\"}} {text}\n");
            assert_eq!(parse_whole(line.as_bytes()).memory.get(&MEMORY, "cached"), Some(value), "{text}");
        }
    }

    #[test]
    fn what_is_not_finite_or_no_sample_is_dropped_and_counted() {
        let text = "kata_guest_meminfo{item=\"cached\"} NaN\nkata_guest_meminfo{item=\"mem_total\"} +Inf\n\
                    kata_guest_meminfo{item=\"mem_free\" 3\nkata_guest_meminfo{item=\"mem_free\"} x\n\
                    kata_guest_meminfo{item=\"mem_free\"} 3\nkata_guest_meminfo{item=\"mem_free\"} 4\n";
        let sample = parse_whole(text.as_bytes());
        assert_eq!(sample.memory.get(&MEMORY, "mem_free"), Some(3.0));
        assert_eq!(sample.memory.get(&MEMORY, "cached"), None);
        let expected = Dropped { malformed_lines: 2, non_finite: 2, duplicates: 1, ..Dropped::default() };
        assert_eq!(sample.dropped, expected);
    }

    #[test]
    fn forged_families_and_labels_change_nothing() {
        let forged = "kata_shim_threads 9\ncontainer_cpu_usage_seconds_total{pod=\"victim\"} 9\n\
                      kata_guest_netdev_stat{pod=\"victim\",interface=\"eth0\",sandbox_id=\"x\",item=\"recv_bytes\"} 5\n\
                      kata_guest_netdev_stat{interface=\"e\\\"}\\n\",item=\"recv_bytes\"} 5\n";
        let sample = parse_whole(forged.as_bytes());
        assert_eq!(sample.interfaces.len(), 1);
        assert_eq!((&*sample.interfaces[0].0, sample.dropped.names), ("eth0", 1));
    }

    #[test]
    fn samples_and_devices_are_capped() {
        let many: String = (0..30_000)
            .map(|n| format!("kata_guest_netdev_stat{{interface=\"i{n}\",item=\"recv_bytes\"}} 1\n"))
            .collect();
        let sample = parse_whole(many.as_bytes());
        assert_eq!((sample.interfaces.len(), sample.dropped.samples), (64, 10_000));
        let long = format!("kata_guest_diskstat{{disk=\"{}\",item=\"reads\"}} 1\n", "x".repeat(129));
        assert!(parse_whole(long.as_bytes()).disks.is_empty());
    }

    #[test]
    fn a_cut_page_counts_as_far_as_its_lines_are_whole() {
        let text = b"kata_guest_meminfo{item=\"cached\"} 123\nkata_guest_meminfo{item=\"buffers\"} 45";
        let cut = parse(text, false, ParseLimits::default());
        assert_eq!((cut.memory.get(&MEMORY, "cached"), cut.memory.get(&MEMORY, "buffers")), (Some(123.0), None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(body in prop::collection::vec(any::<u8>(), 0..2000)) {
            parse_whole(&body);
        }

        #[test]
        fn any_line_behind_a_familys_name_is_survived(rest in "\\PC{0,60}") {
            for family in ["cpu_time", "meminfo", "netdev_stat", "diskstat", "vm_stat", "tasks"] {
                parse_whole(format!("kata_guest_{family}{rest}\n").as_bytes());
            }
        }

        /// A page that was cut says nothing that the whole one does not say.
        #[test]
        fn a_prefix_says_nothing_else(end in 0..RUST.len()) {
            let whole = parse_whole(RUST);
            let part = parse(&RUST[..end], false, ParseLimits::default());
            for (part, whole) in part.memory.0.iter().zip(whole.memory.0) {
                prop_assert!(part.is_none() || *part == whole);
            }
            prop_assert_eq!(part.dropped, Dropped::default());
        }
    }
}
