//! Which module may use which: reads the sources and fails on any arrow that ARCHITECTURE.md does not have.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Module, and what it may use besides itself.
const ARROWS: &[(&str, &[&str])] = &[
    ("sandbox", &[]),
    ("model", &["sandbox"]),
    ("version", &[]),
    ("config", &["sandbox", "model", "version"]),
    ("tasks", &[]),
    ("kernel", &[]),
    ("telemetry", &["sandbox", "config", "version"]),
    ("discover", &["sandbox", "config", "kernel"]),
    ("registry", &["sandbox"]),
    ("collect", &["sandbox", "config", "model", "kernel"]),
    ("account", &["sandbox", "model"]),
    ("convert", &["sandbox", "model", "collect"]),
    ("render", &["sandbox", "model"]),
    ("store", &["sandbox", "model", "convert"]),
    ("scrape", &["sandbox", "model", "render", "store", "telemetry"]),
    ("serve", &["sandbox", "scrape", "telemetry", "version"]),
];

/// The wiring, which knows every module.
const FREE: &[&str] = &["agent", "main", "lib"];

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            out.push(path);
        }
    }
}

/// Names that follow `crate::` anywhere in a line of code, braces of a `use` included.
fn used(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        for (at, _) in line.match_indices("crate::") {
            // `$crate::` and `foo_crate::` are others.
            if line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let rest = &line[at + "crate::".len()..];
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            assert!(!name.is_empty(), "write one `use crate::module` a line, so that this test can read it: {line}");
            found.insert(name);
        }
    }
    found
}

#[test]
fn modules_use_only_what_stands_before_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&src).unwrap();
        let module = inside.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        if FREE.contains(&module) {
            continue;
        }
        let allowed = ARROWS.iter().find(|(name, _)| *name == module);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("{module} is not in the table of arrows"));
        for other in used(&fs::read_to_string(&file).unwrap()) {
            if other != module && !allowed.contains(&other.as_str()) {
                wrong.push(format!("{} uses {other}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_forbidden_arrow_would_be_found() {
    let text = "use crate::serve::x;\n// crate::no\nlet a = crate::store::y(); $crate::z";
    assert_eq!(used(text), BTreeSet::from(["serve".to_owned(), "store".to_owned()]));
}

/// Words that make a module impure.
#[test]
fn conversion_and_rendering_do_no_io_and_read_no_clock() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for module in ["account", "convert", "render", "model", "sandbox"] {
        sources(&src.join(module), &mut files);
    }
    for file in files.iter().filter(|file| !file.ends_with("render/tests.rs")) {
        let text = fs::read_to_string(file).unwrap();
        for word in ["tokio::", "std::fs", "std::net", "Instant::now", "SystemTime::now", "async fn"] {
            assert!(!text.contains(word), "{} has {word}", file.display());
        }
    }
}
