//! An OCI archive of one layer with a busybox that sleeps: pause image and workload in one.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use super::run;

pub(super) const NAME: &str = "localhost/pause:1";

/// A blob in the archive: its digest and size.
struct Blob {
    digest: String,
    size: usize,
}

pub(super) fn make(folder: &Path) -> io::Result<PathBuf> {
    let image = folder.join("image");
    fs::create_dir_all(image.join("blobs/sha256"))?;
    let layer = put(&image, &layer(folder)?)?;
    let config = json!({
        "architecture": architecture(), "os": "linux", "config": {"Entrypoint": ["/bin/sleep", "1000000"]},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
    });
    let config = put(&image, config.to_string().as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media("manifest.v1+json"),
        "config": described("config.v1+json", &config),
        "layers": [described("layer.v1.tar", &layer)],
    });
    let mut manifest = described("manifest.v1+json", &put(&image, manifest.to_string().as_bytes())?);
    manifest["annotations"] = json!({"io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": "1"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(image.join("index.json"), index.to_string())?;
    fs::write(image.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let archive = folder.join("image.tar");
    run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&image).arg("."))?;
    Ok(archive)
}

fn layer(folder: &Path) -> io::Result<Vec<u8>> {
    let (root, archive) = (folder.join("layer"), folder.join("layer.tar"));
    fs::create_dir_all(root.join("bin"))?;
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    std::os::unix::fs::symlink("busybox", root.join("bin/sleep"))?;
    run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&root).arg("bin"))?;
    fs::read(archive)
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn media(kind: &str) -> String {
    format!("application/vnd.oci.image.{kind}")
}

fn described(kind: &str, blob: &Blob) -> Value {
    json!({"mediaType": media(kind), "digest": blob.digest, "size": blob.size})
}

fn put(image: &Path, bytes: &[u8]) -> io::Result<Blob> {
    let file = image.join("blob");
    fs::write(&file, bytes)?;
    let sum = Command::new("sha256sum").arg(&file).output()?.stdout;
    let sum = String::from_utf8_lossy(&sum).split(' ').next().unwrap_or_default().to_owned();
    fs::rename(&file, image.join("blobs/sha256").join(&sum))?;
    Ok(Blob { digest: format!("sha256:{sum}"), size: bytes.len() })
}
