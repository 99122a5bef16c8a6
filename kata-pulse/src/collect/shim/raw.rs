//! The text of a shim's page → families that are passed through as kata-monitor does (kata.md 9.1). Pure; costs nothing
//! unless the operator asked for it.
//!
//! Whose part of a page a line is in decides what it may say: the Go shim's own families come before the guest's,
//! runtime-rs' behind them. A guest that writes a family of the shim writes it in its own part, where it is ignored; what
//! it writes at the end of its part is overruled by the shim, whose last word counts there.

use std::collections::HashMap;

use memchr::memchr_iter;

use crate::model::{RawFamily, RawSample};
use crate::sandbox::Runtime;

/// Kept of one page: a Go page has about 900 samples.
const MAX_SAMPLES: usize = 5_000;
const MAX_HELP_BYTES: usize = 256;
const MAX_NAME_BYTES: usize = 128;
const MAX_VALUE_BYTES: usize = 256;
/// Families of the shim's own process, which kata-monitor renames.
const RENAMED: [&str; 2] = ["go_", "process_"];
/// Families that a shim writes about its own side.
const OF_HOST: [&str; 6] =
    ["kata_shim_", "kata_hypervisor_", "kata_virtiofsd_", "kata_firecracker_", "go_", "process_"];
const OF_GUEST: [&str; 2] = ["kata_agent_", "kata_guest_"];
const KINDS: [&str; 5] = ["gauge", "counter", "histogram", "summary", "untyped"];
const SUFFIXES: [&str; 3] = ["_bucket", "_sum", "_count"];

/// What is passed through, and what of it a limit cut.
#[derive(Debug, Default, PartialEq)]
pub struct RawPage {
    pub families: Vec<RawFamily>,
    pub cut: u64,
}

/// Families whose name, as the page will show it, starts with one of `prefixes`. `runtime`: `None` for a page of the
/// guest's alone.
pub fn parse_raw(body: &[u8], runtime: Option<Runtime>, prefixes: &[String]) -> RawPage {
    let mut reader = Reader { prefixes, ..Reader::default() };
    if prefixes.is_empty() {
        return RawPage::default();
    }
    let guests = |line: &&[u8]| OF_GUEST.iter().any(|prefix| line.starts_with(prefix.as_bytes()));
    let lines: Vec<&[u8]> = whole_lines(body).collect();
    let (first, last) = (lines.iter().position(guests), lines.iter().rposition(guests));
    for (at, line) in lines.into_iter().enumerate() {
        let hosts = match runtime {
            Some(Runtime::Go) => first.is_none_or(|first| at < first),
            Some(Runtime::Rust) => last.is_none_or(|last| at > last),
            None => false,
        };
        reader.take(line, hosts, runtime == Some(Runtime::Rust));
    }
    let mut families: Vec<RawFamily> = reader.families.into_values().map(|family| family.raw).collect();
    families.retain(|family| !family.samples.is_empty());
    families.sort_by(|a, b| a.name.cmp(&b.name));
    RawPage { families, cut: reader.cut }
}

/// A page that was cut short ends in half a line.
fn whole_lines(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    memchr_iter(b'\n', body).map(move |end| {
        let line = &body[start..end];
        start = end + 1;
        line
    })
}

#[derive(Default)]
struct Reader<'a> {
    prefixes: &'a [String],
    families: HashMap<String, Family>,
    samples: usize,
    cut: u64,
}

#[derive(Default)]
struct Family {
    raw: RawFamily,
    /// Place of each series, by suffix and labels.
    series: HashMap<String, usize>,
}

impl Reader<'_> {
    fn take(&mut self, line: &[u8], hosts: bool, last_counts: bool) {
        let Ok(line) = std::str::from_utf8(line) else { return };
        if let Some(rest) = line.strip_prefix("# ") {
            self.take_comment(rest, hosts);
            return;
        }
        let end = line.find(['{', ' ']).unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        if !allowed(name, hosts) {
            return;
        }
        let Some((family, suffix)) = self.family_of(name) else { return };
        let Some((labels, value)) = parse_sample(rest) else { return };
        if self.samples >= MAX_SAMPLES {
            self.cut += 1;
            return;
        }
        let Some(family) = self.families.get_mut(&family) else { return };
        let key = format!("{suffix}{labels:?}");
        let sample = RawSample { suffix, labels, value: value.into() };
        match family.series.get(&key) {
            Some(&at) if last_counts && hosts => family.raw.samples[at] = sample,
            Some(_) => {}
            None => {
                family.series.insert(key, family.raw.samples.len());
                family.raw.samples.push(sample);
                self.samples += 1;
            }
        }
    }

    /// HELP and TYPE, of which the first counts.
    fn take_comment(&mut self, rest: &str, hosts: bool) {
        let mut words = rest.splitn(3, ' ');
        let (Some(word), Some(name), text) = (words.next(), words.next(), words.next().unwrap_or("")) else { return };
        if !allowed(name, hosts) || !is_name(name) || !self.is_wanted(name) {
            return;
        }
        let family = self.families.entry(name.to_owned()).or_insert_with(|| Family {
            raw: RawFamily { name: shown(name).into(), kind: "", ..RawFamily::default() },
            series: HashMap::new(),
        });
        match word {
            "HELP" if family.raw.help.is_empty() => {
                family.raw.help =
                    text.chars().filter(|character| !character.is_control()).take(MAX_HELP_BYTES).collect();
            }
            "TYPE" if family.raw.kind.is_empty() => {
                family.raw.kind = KINDS.into_iter().find(|kind| *kind == text).unwrap_or("untyped");
            }
            _ => {}
        }
    }

    fn is_wanted(&self, name: &str) -> bool {
        let shown = shown(name);
        self.prefixes.iter().any(|prefix| shown.starts_with(prefix.as_str()))
    }

    /// The family that a sample of this name belongs to; nothing without a TYPE before it.
    fn family_of(&self, name: &str) -> Option<(String, &'static str)> {
        if let Some(family) = self.families.get(name) {
            // Samples of a histogram are named otherwise.
            return (family.raw.kind != "histogram").then(|| (name.to_owned(), ""));
        }
        SUFFIXES.into_iter().find_map(|suffix| {
            let base = name.strip_suffix(suffix)?;
            let kind = self.families.get(base)?.raw.kind;
            let fits = kind == "histogram" || (kind == "summary" && suffix != "_bucket");
            fits.then(|| (base.to_owned(), suffix))
        })
    }
}

fn allowed(name: &str, hosts: bool) -> bool {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    starts(&OF_GUEST) || (hosts && starts(&OF_HOST))
}

fn shown(name: &str) -> String {
    let renamed = RENAMED.iter().any(|prefix| name.starts_with(prefix));
    if renamed { format!("kata_shim_{name}") } else { name.to_owned() }
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name.len() <= MAX_NAME_BYTES && !name.is_empty() && name.bytes().all(plain) && !name.as_bytes()[0].is_ascii_digit()
}

/// What follows a sample's name: labels, a value, perhaps a time that does not matter.
fn parse_sample(rest: &str) -> Option<([Box<str>; 3], &str)> {
    let (mut labels, value) = match rest.strip_prefix('{') {
        Some(rest) => parse_labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = value.strip_prefix(' ')?.trim().split(' ').next()?;
    if !value.parse::<f64>().is_ok_and(f64::is_finite) {
        return None;
    }
    labels.sort_unstable();
    let unique = labels.windows(2).all(|pair| pair[0].0 != pair[1].0);
    let mut cut = [String::new(), String::new(), String::new()];
    for (name, value) in &labels {
        // These are the host's to say.
        if name.starts_with("cri_") || *name == "sandbox_id" {
            return None;
        }
        let part = &mut cut[usize::from(*name > "cri_") + usize::from(*name > "sandbox_id")];
        if !part.is_empty() {
            part.push(',');
        }
        part.push_str(&format!("{name}=\"{value}\""));
    }
    unique.then(|| (cut.map(Into::into), value))
}

/// Names and values, these as they are escaped; and what follows the brace.
fn parse_labels(mut rest: &str) -> Option<(Vec<(&str, &str)>, &str)> {
    let mut labels = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, after) = rest.split_once("=\"")?;
        let end = end_of_value(after)?;
        let (value, after) = (&after[..end], &after[end + 1..]);
        if !is_name(name) || value.len() > MAX_VALUE_BYTES || labels.len() >= 16 {
            return None;
        }
        labels.push((name, value));
        rest = after.strip_prefix(',').unwrap_or(after);
    }
}

/// The closing quote; only the three escapes that the format knows are taken.
fn end_of_value(text: &str) -> Option<usize> {
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some(at),
            b'\\' => matches!(bytes.next()?.1, b'\\' | b'"' | b'n').then_some(())?,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GO: &[u8] = include_bytes!("../../../testdata/shim/go-remote-4.1.0.prom");
    const RUST: &[u8] = include_bytes!("../../../testdata/shim/rust-remote-4.1.0.prom");

    fn prefixes(all: &[&str]) -> Vec<String> {
        all.iter().map(|prefix| (*prefix).to_owned()).collect()
    }

    fn names(page: &RawPage) -> Vec<&str> {
        page.families.iter().map(|family| &*family.name).collect()
    }

    #[test]
    fn a_real_go_page_is_passed_through_with_kata_monitors_names() {
        let page = parse_raw(GO, Some(Runtime::Go), &prefixes(&["kata_"]));
        let names = names(&page);
        for name in ["kata_shim_go_goroutines", "kata_shim_process_open_fds", "kata_guest_load", "kata_hypervisor_fds"]
        {
            assert!(names.contains(&name), "{name}");
        }
        assert!(names.iter().all(|name| name.starts_with("kata_")));
        let rpc = page.families.iter().find(|family| family.name.ends_with("rpc_durations_histogram_milliseconds"));
        let rpc = rpc.unwrap();
        assert_eq!(rpc.kind, "histogram");
        assert!(SUFFIXES.iter().all(|suffix| rpc.samples.iter().any(|sample| sample.suffix == *suffix)));
        let quantiles =
            page.families.iter().find(|family| &*family.name == "kata_shim_go_gc_duration_seconds").unwrap();
        assert_eq!((quantiles.kind, quantiles.samples.len()), ("summary", 7));
    }

    #[test]
    fn only_what_was_asked_for_is_kept() {
        let page = parse_raw(RUST, Some(Runtime::Rust), &prefixes(&["kata_shim_threads", "kata_guest_load"]));
        assert_eq!(names(&page), ["kata_guest_load", "kata_shim_threads"]);
        assert_eq!(parse_raw(RUST, Some(Runtime::Rust), &[]), RawPage::default());
    }

    #[test]
    fn a_guest_cannot_speak_for_its_shim() {
        let forged = "# TYPE kata_shim_threads gauge\nkata_shim_threads 99\n";
        let guest = format!("# TYPE kata_guest_load gauge\nkata_guest_load{{item=\"load1\"}} 1\n{forged}");
        let shim = "# TYPE kata_shim_threads gauge\nkata_shim_threads 7\n";
        for (runtime, page) in
            [(Runtime::Go, format!("{shim}{guest}")), (Runtime::Rust, format!("{forged}{guest}{shim}"))]
        {
            let page = parse_raw(page.as_bytes(), Some(runtime), &prefixes(&["kata_"]));
            let threads = page.families.iter().find(|family| &*family.name == "kata_shim_threads").unwrap();
            assert_eq!((threads.samples.len(), &*threads.samples[0].value), (1, "7"), "{runtime:?}");
        }
        let alone = parse_raw(guest.as_bytes(), None, &prefixes(&["kata_"]));
        assert_eq!(names(&alone), ["kata_guest_load"]);
    }

    #[test]
    fn labels_of_the_host_and_lines_that_are_no_samples_are_dropped() {
        let text = "# TYPE kata_guest_x gauge\nkata_guest_x{sandbox_id=\"v\"} 1\nkata_guest_x{cri_name=\"v\"} 1\n\
                    kata_guest_x{a=\"1\",a=\"2\"} 1\nkata_guest_x{a=\"\\x\"} 1\nkata_guest_x{a=\"1\"} NaN\n\
                    kata_guest_x{a b=\"1\"} 1\nkata_guest_x{z=\"1\",a=\"q\\\"}\",k=\"2\"} 5 17\nkata_guest_y 1\n";
        let page = parse_raw(text.as_bytes(), None, &prefixes(&["kata_"]));
        let sample = RawSample {
            suffix: "",
            labels: ["a=\"q\\\"}\"".into(), "k=\"2\"".into(), "z=\"1\"".into()],
            value: "5".into(),
        };
        assert_eq!((page.families.len(), &page.families[0].samples), (1, &vec![sample]));
    }

    #[test]
    fn samples_are_capped_and_the_rest_is_counted() {
        let mut text = "# TYPE kata_guest_x gauge\n".to_owned();
        (0..6_000).for_each(|number| text += &format!("kata_guest_x{{n=\"{number}\"}} 1\n"));
        let page = parse_raw(text.as_bytes(), None, &prefixes(&["kata_guest_x"]));
        assert_eq!((page.families[0].samples.len(), page.cut), (MAX_SAMPLES, 1_000));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(body in prop::collection::vec(any::<u8>(), 0..1000), line in "\\PC{0,80}") {
            parse_raw(&body, Some(Runtime::Go), &prefixes(&["kata_"]));
            let text = format!("# TYPE kata_guest_x gauge\nkata_guest_x{line}\n");
            parse_raw(text.as_bytes(), None, &prefixes(&["kata_"]));
        }
    }
}
