//! Asks a program for its version: the one place where the agent starts anything.
//!
//! By descriptor, with no environment and no input; at most a line is read, at most two seconds are waited.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tracing::debug;

use super::Answer;
use crate::sandbox::{Runtime, Version};

const OUTPUT_BYTES: u64 = 4096;
const DEADLINE: Duration = Duration::from_secs(2);

/// `None`: it cannot run here (an image without the host's libraries), or says nothing that we understand.
pub async fn version(program: &OwnedFd, name: &Path) -> Option<Answer> {
    // The child has the same descriptor, which the kernel opens before it closes it.
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.arg0(name).arg("--version").env_clear().current_dir("/").process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            debug!(program = %name.display(), error = &error as &dyn std::error::Error, "configured shim does not run here");
            return None;
        }
    };
    let output = timeout(DEADLINE, read(&mut child)).await.ok().flatten();
    if output.is_none() {
        kill(&mut child).await;
    }
    parse(&output?)
}

/// Everything it says, if that is little and it ends well.
async fn read(child: &mut Child) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    child.stdout.take()?.take(OUTPUT_BYTES + 1).read_to_end(&mut bytes).await.ok()?;
    let is_little = bytes.len() as u64 <= OUTPUT_BYTES;
    (is_little && child.wait().await.ok()?.success()).then_some(bytes)
}

/// With everything it started; it was not waited for yet, so that the pid is its own.
async fn kill(child: &mut Child) {
    let group = child.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
    if let Some(group) = group {
        // Gone already is as good.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    // One that cannot die now is reaped by tokio when it does.
    let _ = timeout(DEADLINE, child.wait()).await;
}

/// The line of either runtime.
pub fn parse(output: &[u8]) -> Option<Answer> {
    let text = std::str::from_utf8(output).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Kata Containers containerd shim ("))?;
    let (language, rest) = line.split_once("): ")?;
    let runtime = match language {
        "Golang" => Runtime::Go,
        "Rust" => Runtime::Rust,
        _ => return None,
    };
    let (_, after) = rest.split_once(", version: ")?;
    let version = Version::parse(after.split(',').next()?)?;
    Some(Answer { runtime, version })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(line: &str, expected: Option<(Runtime, (u16, u16, u16))>) {
        let found = parse(line.as_bytes())
            .map(|Answer { runtime, version }| (runtime, (version.major, version.minor, version.patch)));
        assert_eq!(found, expected, "{line}");
    }

    #[test]
    fn both_runtimes_say_it_in_their_way() {
        let go =
            "Kata Containers containerd shim (Golang): id: \"io.containerd.kata.v2\", version: 3.2.0, commit: abc\n";
        check(go, Some((Runtime::Go, (3, 2, 0))));
        let rust =
            "Kata Containers containerd shim (Rust): id: io.containerd.kata.v2, version: 4.1.0, commit: abc-dirty\n";
        check(rust, Some((Runtime::Rust, (4, 1, 0))));
        check(&format!("a warning first\n{rust}"), Some((Runtime::Rust, (4, 1, 0))));
        check(&rust.replace("4.1.0", "4.2.0-alpha0"), None);
        for odd in ["", "containerd-shim-runc-v2:\n  Version:  1.6.20", "Kata Containers containerd shim (C): x"] {
            check(odd, None);
        }
    }

    proptest! {
        #[test]
        fn any_output_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), rest in "\\PC{0,60}") {
            let _ = (parse(&bytes), parse(format!("Kata Containers containerd shim (Rust): {rest}").as_bytes()));
        }
    }
}
