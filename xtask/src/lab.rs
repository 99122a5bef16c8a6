//! Placeholder: the branch `ebpf` brings this command.

pub fn run() -> anyhow::Result<()> {
    anyhow::bail!("lab is not part of this branch")
}
