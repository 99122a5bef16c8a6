//! The text of a shim's page → families that are passed through as kata-monitor does (kata.md 9.1). Pure; costs nothing
//! unless the operator asked for it.
//!
//! Only families and labels of [`raw_table`](super::raw_table) are taken, with the types that it says: a guest can neither
//! invent a family nor a label, nor change a type. Whose part of a page a line is in decides what it may say: the Go
//! shim's own families come before the guest's, runtime-rs' behind them. A guest that writes a family of the shim writes
//! it in its own part, where it is ignored; what it writes at the end of its part is overruled by the shim, which begins
//! each of its families with a line of its type.

use std::collections::HashMap;

use memchr::memchr_iter;

use super::raw_table::{Side, is_label, known, shown};
use crate::model::{RawFamily, RawSample};
use crate::sandbox::Runtime;

/// Kept of one page: a Go page has about 900 samples.
const MAX_SAMPLES: usize = 5_000;
const MAX_VALUE_BYTES: usize = 256;
const MAX_LABELS: usize = 8;
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
    if prefixes.is_empty() {
        return RawPage::default();
    }
    let mut reader = Reader { prefixes, runtime, ..Reader::default() };
    let guests = |line: &&[u8]| line.starts_with(b"kata_agent_") || line.starts_with(b"kata_guest_");
    let (first, last) = (whole_lines(body).position(|line| guests(&line)), last_position(body, guests));
    for (at, line) in whole_lines(body).enumerate() {
        let hosts = match runtime {
            Some(Runtime::Go) => first.is_none_or(|first| at < first),
            Some(Runtime::Rust) => last.is_none_or(|last| at > last),
            None => false,
        };
        reader.take(line, hosts);
    }
    let mut families: Vec<RawFamily> = reader.families.into_values().map(|family| family.raw).collect();
    families.retain(|family| !family.samples.is_empty());
    families.sort_by(|a, b| a.name.cmp(&b.name));
    RawPage { families, cut: reader.cut }
}

fn last_position(body: &[u8], fits: impl Fn(&&[u8]) -> bool) -> Option<usize> {
    whole_lines(body).enumerate().filter(|(_, line)| fits(line)).map(|(at, _)| at).last()
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
    runtime: Option<Runtime>,
    /// No more than the table has rows.
    families: HashMap<&'static str, Family>,
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
    fn take(&mut self, line: &[u8], hosts: bool) {
        let Ok(line) = std::str::from_utf8(line) else { return };
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            self.begin(rest.split(' ').next().unwrap_or(""), hosts);
            return;
        }
        let end = line.find(['{', ' ']).unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        let Some((name, kind, suffix)) = self.family_of(name, hosts) else { return };
        let Some((labels, value)) = parse_sample(rest) else { return };
        if self.samples >= MAX_SAMPLES {
            self.cut += 1;
            return;
        }
        let family = self.families.entry(name).or_insert_with(|| Family {
            raw: RawFamily { name: shown(name).into(), kind, samples: Vec::new() },
            series: HashMap::new(),
        });
        let key = format!("{suffix}{labels:?}");
        // Of a series that is there twice the first counts: a shim puts one out once.
        if !family.series.contains_key(&key) {
            family.series.insert(key, family.raw.samples.len());
            family.raw.samples.push(RawSample { suffix, labels, value: value.into() });
            self.samples += 1;
        }
    }

    /// Runtime-rs begins its own families behind whatever the guest said of them.
    fn begin(&mut self, name: &str, hosts: bool) {
        if hosts && self.runtime == Some(Runtime::Rust) {
            self.families.remove(name).into_iter().for_each(|family| self.samples -= family.raw.samples.len());
        }
    }

    /// The family that a sample of this name belongs to, if it may be said here and was asked for.
    fn family_of(&self, name: &str, hosts: bool) -> Option<(&'static str, &'static str, &'static str)> {
        let plain = || known(name).filter(|row| row.kind != "histogram").map(|row| (row, ""));
        let of_parts = || {
            SUFFIXES.into_iter().find_map(|suffix| {
                let row = known(name.strip_suffix(suffix)?)?;
                let fits = row.kind == "histogram" || (row.kind == "summary" && suffix != "_bucket");
                fits.then_some((row, suffix))
            })
        };
        let (row, suffix) = plain().or_else(of_parts)?;
        let allowed = match row.side {
            Side::Guest => true,
            Side::Go => hosts && self.runtime == Some(Runtime::Go),
            Side::Both => hosts,
        };
        let shown = shown(row.name);
        let wanted = self.prefixes.iter().any(|prefix| shown.starts_with(prefix.as_str()));
        (allowed && wanted).then_some((row.name, row.kind, suffix))
    }
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
        if !is_label(name) || value.len() > MAX_VALUE_BYTES || labels.len() >= MAX_LABELS {
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

    const GO: &[u8] = include_bytes!("../../testdata/shim/go-remote-4.1.0.prom");
    const RUST: &[u8] = include_bytes!("../../testdata/shim/rust-remote-4.1.0.prom");

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

    fn value_of<'a>(page: &'a RawPage, family: &str) -> Vec<&'a str> {
        let family = page.families.iter().find(|one| &*one.name == family);
        family.iter().flat_map(|family| &family.samples).map(|sample| &*sample.value).collect()
    }

    #[test]
    fn a_guest_cannot_speak_for_its_shim() {
        let forged = "# TYPE kata_shim_threads histogram\nkata_shim_threads 99\nkata_hypervisor_fds 99\nprocess_x 99\n\
                      # TYPE kata_invented gauge\nkata_invented 99\nkata_virtiofsd_fds 99\n";
        let guest = "# TYPE kata_guest_load counter\nkata_guest_load{item=\"load1\"} 1\n";
        let shim = "# TYPE kata_shim_threads gauge\nkata_shim_threads 7\n";
        for (runtime, page) in [
            (Runtime::Go, format!("{shim}{guest}{forged}")),
            (Runtime::Rust, format!("{forged}{guest}{shim}")),
            (Runtime::Rust, format!("{guest}{forged}{shim}")),
        ] {
            let page = parse_raw(page.as_bytes(), Some(runtime), &prefixes(&["kata_"]));
            assert_eq!(value_of(&page, "kata_shim_threads"), ["7"], "{runtime:?}");
            assert_eq!(page.families.iter().map(|one| one.kind).collect::<Vec<_>>(), ["gauge"; 2], "{page:?}");
        }
        let alone = parse_raw(format!("{guest}{forged}").as_bytes(), None, &prefixes(&["kata_"]));
        assert_eq!(names(&alone), ["kata_guest_load"]);
    }

    #[test]
    fn labels_that_no_family_has_and_lines_that_are_no_samples_are_dropped() {
        let mut text = String::new();
        for label in ["sandbox_id", "cri_name", "__name__", "job", "namespace", "pod", "a b", ""] {
            text += &format!("kata_guest_load{{{label}=\"v\"}} 1\n");
        }
        text += "kata_guest_load{item=\"1\",item=\"2\"} 1\nkata_guest_load{item=\"\\x\"} 1\nkata_guest_load{item=\"1\"} NaN\n\
                 kata_guest_load{mount=\"1\",cpu=\"q\\\"}\",item=\"2\"} 5 17\nkata_guest_y 1\n";
        let page = parse_raw(text.as_bytes(), None, &prefixes(&["kata_"]));
        let labels = ["cpu=\"q\\\"}\"".into(), "item=\"2\",mount=\"1\"".into(), "".into()];
        let sample = RawSample { suffix: "", labels, value: "5".into() };
        assert_eq!((page.families.len(), &page.families[0].samples), (1, &vec![sample]));
    }

    #[test]
    fn samples_are_capped_and_the_rest_is_counted() {
        let mut text = String::new();
        (0..6_000).for_each(|number| text += &format!("kata_guest_load{{item=\"{number}\"}} 1\n"));
        let page = parse_raw(text.as_bytes(), None, &prefixes(&["kata_guest_load"]));
        assert_eq!((page.families[0].samples.len(), page.cut), (MAX_SAMPLES, 1_000));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(body in prop::collection::vec(any::<u8>(), 0..1000), line in "\\PC{0,80}") {
            parse_raw(&body, Some(Runtime::Go), &prefixes(&["kata_"]));
            let text = format!("kata_guest_load{line}\n");
            parse_raw(text.as_bytes(), None, &prefixes(&["kata_"]));
        }
    }
}
