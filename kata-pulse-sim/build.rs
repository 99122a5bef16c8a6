//! Compiles our own small .proto without a protoc binary.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let set = protox::compile(["proto/cri.proto"], ["proto"])?;
    tonic_prost_build::configure().build_client(true).compile_fds(set)?;
    Ok(())
}
