//! What the pages for users quote is what there is: messages, source states, families, flags, and the places that links
//! lead to. Reads files only.
//!
//! A comment before a table says what its first column holds: `<!-- messages -->`, of the agent, with `…` for what
//! changes; `<!-- states -->`, of sources, all of them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Pages whose families and flags are all the agent's own; others name those of other programs as well.
const OWN_PAGES: [&str; 4] = ["README.md", "docs/install.md", "docs/limits.md", "docs/troubleshooting.md"];
/// Flags on those pages that are of helm, kubectl and cargo, or of a shim.
const OTHERS_FLAGS: [&str; 11] = [
    "--namespace",
    "--create-namespace",
    "--set",
    "--version",
    "--values",
    "--reuse-values",
    "--reset-then-reuse-values",
    "--all-namespaces",
    "--now",
    "--overwrite",
    "--help",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Every page of the repository that is written by hand, as a path from its root.
fn pages() -> Vec<String> {
    let mut pages: Vec<String> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(Into::into).into();
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if root().join(&path).is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    pages
}

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.to_str().is_some_and(|path| path.ends_with(".rs") && !path.ends_with("tests.rs")) {
            out.push(path);
        }
    }
}

/// Lines of the agent's sources, without comments and without tests.
fn code() -> Vec<String> {
    let mut files = Vec::new();
    sources(&root().join("kata-pulse/src"), &mut files);
    let mut lines = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        lines.extend(code.lines().filter(|line| !line.trim_start().starts_with("//")).map(str::to_owned));
    }
    lines
}

/// The first column of every table behind `<!-- mark -->`.
fn marked(text: &str, mark: &str) -> Vec<String> {
    let mark = format!("<!-- {mark} -->");
    let tables = text.split(&mark).skip(1);
    let rows = tables.flat_map(|table| {
        let lines = table.lines().skip_while(|line| line.is_empty());
        lines.take_while(|line| line.starts_with('|')).skip(2).map(str::to_owned).collect::<Vec<_>>()
    });
    rows.map(|row| row.split(" | ").next().unwrap().trim_start_matches('|').trim().to_owned()).collect()
}

/// What stands between backquotes, blocks of code left out.
fn spans(text: &str) -> Vec<String> {
    let outside = text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n");
    outside.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn holds_in_order(line: &str, parts: &[&str]) -> bool {
    let mut rest = line;
    parts.iter().all(|part| match rest.split_once(part) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

#[test]
fn every_quoted_message_is_one_of_the_agents() {
    let (code, text) = (code(), read("docs/troubleshooting.md"));
    let quoted: Vec<String> = marked(&text, "messages").iter().flat_map(|cell| spans(cell)).collect();
    assert!(quoted.len() > 40, "only {} messages were found on the page", quoted.len());
    let is_said = |message: &&String| {
        let parts: Vec<&str> = message.split('…').filter(|part| !part.is_empty()).collect();
        code.iter().any(|line| line.contains('"') && holds_in_order(line, &parts))
    };
    let unknown: Vec<&String> = quoted.iter().filter(|message| !is_said(message)).collect();
    assert!(unknown.is_empty(), "nowhere in kata-pulse/src: {unknown:#?}");
}

#[test]
fn every_state_of_a_source_is_explained() {
    let source = read("kata-pulse/src/sandbox/source.rs");
    let (_, states) = source.split_once("impl SourceState").unwrap();
    let words = |line: &str| Some(line.split_once("=> \"")?.1.split('"').next()?.to_owned());
    let known: BTreeSet<String> = states.lines().filter_map(words).collect();
    let told: BTreeSet<String> =
        marked(&read("docs/troubleshooting.md"), "states").iter().flat_map(|cell| spans(cell)).collect();
    assert_eq!(told, known);
}

#[test]
fn every_family_that_is_named_is_in_the_table_of_families() {
    let table = read("docs/metrics.md");
    for page in OWN_PAGES {
        for span in spans(&read(page)) {
            let name = span.split(['{', '?', ' ']).next().unwrap();
            let is_family =
                ["kata_pulse_", "kata_sandbox_", "container_"].iter().any(|prefix| name.starts_with(prefix));
            if !is_family || name.ends_with('*') || name.ends_with('_') {
                continue;
            }
            assert!(table.contains(&format!("| {name} |")), "{page} names {name}, which is not in docs/metrics.md");
        }
    }
}

#[test]
fn every_flag_that_is_named_is_one() {
    // What is no flag in the sources is none, whoever parses them.
    let code = read("kata-pulse/src/config/args.rs").replace('_', "-");
    for page in OWN_PAGES {
        for span in spans(&read(page)) {
            let words = span.split([' ', '=', '\'']).filter(|word| word.starts_with("--") && word.len() > 2);
            for flag in words.filter(|word| !OTHERS_FLAGS.contains(word)) {
                let field = format!("    {}: ", &flag[2..]);
                assert!(code.contains(&field), "{page} names {flag}, which is no flag of the agent");
            }
        }
    }
}

/// As GitHub makes it of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let outside = text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n");
    outside.lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#'))).collect()
}

#[test]
fn every_link_leads_somewhere() {
    for page in pages() {
        let text = read(&page);
        let outside = text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n");
        for target in outside.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if target.contains("://") {
                continue;
            }
            let (file, place) = target.split_once('#').unwrap_or((target, ""));
            let from = Path::new(&page).parent().unwrap();
            let path = if file.is_empty() { PathBuf::from(&page) } else { from.join(file) };
            assert!(root().join(&path).exists(), "{page} links to {target}: no such file");
            if !place.is_empty() {
                let there = fs::read_to_string(root().join(&path)).unwrap();
                assert!(anchors(&there).contains(place), "{page} links to {target}: no such heading");
            }
        }
    }
}
