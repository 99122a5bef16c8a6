//! What is in the image, and what is not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::Value;

const MAX_BYTES: u64 = 30_000_000;
/// With nothing beside it there is no shell, no library and no loader.
const FILES: [&str; 2] = ["LICENSE", "kata-pulse"];
/// Type of the program header that names a loader.
const INTERPRETER: u32 = 3;

/// `config`: the image's, as the OCI specification has it.
pub fn check(root: &Path, config: &Value, revision: &str) -> anyhow::Result<()> {
    let mut files = Vec::new();
    let mut bytes = 0;
    for entry in fs::read_dir(root).with_context(|| format!("list {}", root.display()))? {
        let entry = entry?;
        bytes += entry.metadata()?.len();
        files.push(entry.file_name().to_string_lossy().into_owned());
    }
    files.sort();
    ensure!(files == FILES, "in the image are {files:?}, expected {FILES:?}");
    ensure!(bytes < MAX_BYTES, "the image has {bytes} bytes, bound {MAX_BYTES}");
    let program = root.join("kata-pulse");
    ensure!(fs::metadata(&program)?.permissions().mode() & 0o111 == 0o111, "the program cannot be run by everybody");
    ensure!(!has_loader(&fs::read(&program)?).context("the program is no ELF file")?, "the program is not static");
    check_config(config, revision)?;
    println!("image: {bytes} bytes in {files:?}, static");
    Ok(())
}

fn check_config(config: &Value, revision: &str) -> anyhow::Result<()> {
    ensure!(config["Entrypoint"] == serde_json::json!(["/kata-pulse"]), "entry point: {config}");
    let listens = |variable: &Value| variable == "KATA_PULSE_LISTEN=0.0.0.0:8090";
    ensure!(config["Env"].as_array().is_some_and(|all| all.iter().any(listens)), "environment: {config}");
    ensure!(config["ExposedPorts"]["8090/tcp"].is_object(), "ports: {config}");
    let label = |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].as_str();
    ensure!(label("revision") == Some(revision) && label("licenses") == Some("Apache-2.0"), "labels: {config}");
    Ok(())
}

/// Whether a 64-bit little-endian ELF file asks for a loader; `None` for any other file.
fn has_loader(elf: &[u8]) -> Option<bool> {
    let number = |at: usize, size: usize| {
        let bytes = elf.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte)))
    };
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let mut loader = false;
    for header in 0..count {
        let at = usize::try_from(table.checked_add(header * size)?).ok()?;
        loader |= number(at, 4)? == u64::from(INTERPRETER);
    }
    Some(loader)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_loader_is_told_from_what_is_none() {
        assert_eq!(has_loader(&fs::read(std::env::current_exe().unwrap()).unwrap()), Some(true));
        assert_eq!(has_loader(b"#!/bin/sh"), None);
        assert_eq!(has_loader(b"\x7fELF\x02\x01"), None);
    }

    #[test]
    fn a_static_program_has_none() {
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (elf[32], elf[54], elf[56], elf[64]) = (64, 56, 1, 1);
        assert_eq!(has_loader(&elf), Some(false));
        elf[64] = 3;
        assert_eq!(has_loader(&elf), Some(true));
        elf[56] = 2;
        assert_eq!(has_loader(&elf), None, "cut off");
    }
}
