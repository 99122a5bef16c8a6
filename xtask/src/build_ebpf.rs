//! Placeholder: the branch `ebpf` brings this command.

pub fn run() -> anyhow::Result<()> {
    anyhow::bail!("build_ebpf is not part of this branch")
}
