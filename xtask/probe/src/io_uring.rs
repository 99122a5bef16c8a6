//! mkdir by io_uring, which no system call tracepoint sees.

use std::path::Path;

/// Makes a directory by IORING_OP_MKDIRAT.
pub fn mkdir(_path: &Path) -> anyhow::Result<()> {
    anyhow::bail!("the probe does not set up a ring yet")
}
