//! What a shim answers to `--version`: the line of its runtime, which the place of its executable tells.

use std::path::Path;

/// The release that the simulated shims are.
pub const RELEASE: &str = "4.1.0";

/// `None`: this process is no shim, or was not asked.
pub fn answer() -> Option<String> {
    let mut arguments = std::env::args();
    let program = arguments.next()?;
    arguments.any(|word| matches!(word.as_str(), "--version" | "-version" | "-v")).then(|| line(Path::new(&program)))?
}

fn line(program: &Path) -> Option<String> {
    if !program.file_name()?.to_str()?.starts_with("containerd-shim-kata") {
        return None;
    }
    let rust = program.components().any(|part| part.as_os_str() == "runtime-rs");
    Some(if rust {
        format!(
            "Kata Containers containerd shim (Rust): id: io.containerd.kata.v2, version: {RELEASE}, commit: simulated"
        )
    } else {
        format!(
            "Kata Containers containerd shim (Golang): id: \"io.containerd.kata.v2\", version: {RELEASE}, commit: simulated"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_runtime_has_its_line_and_nothing_else_has_one() {
        let line = |path: &str| line(Path::new(path)).unwrap_or_default();
        assert!(
            line("/r/opt/kata/bin/containerd-shim-kata-v2")
                .contains("(Golang): id: \"io.containerd.kata.v2\", version: 4.1.0,")
        );
        assert!(
            line("/r/opt/kata/runtime-rs/bin/containerd-shim-kata-v2")
                .contains("(Rust): id: io.containerd.kata.v2, version: 4.1.0,")
        );
        assert_eq!(line("/usr/bin/kata-pulse-sim"), "");
    }
}
