//! Compiles our own small .proto without a protoc binary.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = ["cri", "tasks", "containers", "events", "task_events", "metrics_v1", "metrics_v2"];
    let set = protox::compile(files.map(|name| format!("proto/{name}.proto")), ["proto"])?;
    tonic_prost_build::configure().build_client(true).compile_fds(set)?;
    Ok(())
}
