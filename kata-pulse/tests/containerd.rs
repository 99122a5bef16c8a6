//! Debian's real containerd with CRI pods whose runtime handler is `kata`: names appear on the page, survive a restart
//! of containerd, and disappear with their pod. The recipe is that of a machine without registry: an image made by
//! hand around busybox, pods in the host's network.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use prost::Message;
use serde_json::json;
use support::{Agent, PATIENCE, root};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};

/// The calls that make and remove pods: in no part of the agent.
mod calls {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct RunPodSandbox {
        #[prost(message, optional, tag = "1")]
        pub config: Option<PodSandboxConfig>,
        #[prost(string, tag = "2")]
        pub runtime_handler: String,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct PodSandboxConfig {
        #[prost(message, optional, tag = "1")]
        pub metadata: Option<Metadata>,
        #[prost(string, tag = "3")]
        pub log_directory: String,
        #[prost(message, optional, tag = "8")]
        pub linux: Option<Linux>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Metadata {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(string, tag = "2")]
        pub uid: String,
        #[prost(string, tag = "3")]
        pub namespace: String,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Linux {
        #[prost(string, tag = "1")]
        pub cgroup_parent: String,
        #[prost(message, optional, tag = "2")]
        pub security: Option<Security>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Security {
        #[prost(message, optional, tag = "1")]
        pub namespaces: Option<Namespaces>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Namespaces {
        /// 2: the node's.
        #[prost(int32, tag = "1")]
        pub network: i32,
    }
    /// A sandbox id, as request and as answer.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct SandboxId {
        #[prost(string, tag = "1")]
        pub id: String,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Nothing {}
}

struct Containerd {
    child: Child,
    folder: PathBuf,
    channel: Channel,
}

impl Containerd {
    async fn start(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("config.toml"), config(folder)).unwrap();
        let child = spawn(folder);
        let socket = folder.join("containerd.sock");
        let started = Instant::now();
        let channel = loop {
            let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
            match endpoint.connect().await {
                Ok(channel) => break channel,
                Err(error) => assert!(started.elapsed() < PATIENCE, "containerd does not start: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let containerd = Self { child, folder: folder.into(), channel };
        containerd.import(&image(folder));
        containerd
    }

    fn import(&self, archive: &Path) {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(self.folder.join("containerd.sock")).args(["--namespace", "k8s.io", "images"]);
        run(ctr.args(["import", "--snapshotter", "native"]).arg(archive));
    }

    async fn call<Q: Message + 'static, A: Message + Default + 'static>(
        &self,
        method: &str,
        request: Q,
    ) -> Result<A, tonic::Status> {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let path: PathAndQuery = format!("/runtime.v1.RuntimeService/{method}").parse().unwrap();
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        Ok(client.unary(tonic::Request::new(request), path, codec).await?.into_inner())
    }

    async fn run_pod(&self, name: &str) -> String {
        let metadata = calls::Metadata { name: name.into(), uid: format!("uid-{name}"), namespace: "ns".into() };
        let security = calls::Security { namespaces: Some(calls::Namespaces { network: 2 }) };
        let config = calls::PodSandboxConfig {
            metadata: Some(metadata),
            log_directory: self.folder.join("logs").display().to_string(),
            linux: Some(calls::Linux {
                cgroup_parent: format!("/kata-pulse-test/pod{name}"),
                security: Some(security),
            }),
        };
        let request = calls::RunPodSandbox { config: Some(config), runtime_handler: "kata".into() };
        let started = Instant::now();
        loop {
            match self.call::<_, calls::SandboxId>("RunPodSandbox", request.clone()).await {
                Ok(answer) => return answer.id,
                // It starts, or starts again.
                Err(error)
                    if error.code() == tonic::Code::Unavailable
                        || error.message().contains("not initialized yet")
                        || error.message().contains("transport error") => {}
                Err(error) => panic!("RunPodSandbox: {error}"),
            }
            assert!(started.elapsed() < PATIENCE, "containerd does not get ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn remove_pod(&self, id: &str) {
        for method in ["StopPodSandbox", "RemovePodSandbox"] {
            let request = calls::SandboxId { id: id.into() };
            self.call::<_, calls::Nothing>(method, request).await.unwrap();
        }
    }

    fn stop(&mut self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }

    fn restart(&mut self) {
        self.stop();
        self.child = spawn(&self.folder);
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(folder: &Path) -> Child {
    let log = fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
    let mut command = Command::new("containerd");
    command.arg("--config").arg(folder.join("config.toml"));
    command.stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

fn config(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:1"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "{folder}/cni"
"#
    )
}

/// An OCI archive of one layer with a busybox that sleeps.
fn image(folder: &Path) -> PathBuf {
    let layer = folder.join("layer");
    fs::create_dir_all(layer.join("bin")).unwrap();
    fs::copy("/bin/busybox", layer.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", layer.join("bin/sleep")).unwrap();
    run(Command::new("tar").arg("-cf").arg(folder.join("layer.tar")).arg("-C").arg(&layer).arg("bin"));
    let blobs = folder.join("image/blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let file = folder.join("blob");
        fs::write(&file, bytes).unwrap();
        let sum = Command::new("sha256sum").arg(&file).output().unwrap().stdout;
        let digest = String::from_utf8(sum).unwrap().split(' ').next().unwrap().to_owned();
        fs::rename(&file, blobs.join(&digest)).unwrap();
        (format!("sha256:{digest}"), bytes.len())
    };
    let (layer, layer_size) = put(&fs::read(folder.join("layer.tar")).unwrap());
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/bin/sleep", "1000000"]},
        "rootfs": {"type": "layers", "diff_ids": [layer]},
    });
    let (config, config_size) = put(config.to_string().as_bytes());
    let media = |kind: &str| format!("application/vnd.oci.image.{kind}");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media("manifest.v1+json"),
        "config": {"mediaType": media("config.v1+json"), "digest": config, "size": config_size},
        "layers": [{"mediaType": media("layer.v1.tar"), "digest": layer, "size": layer_size}],
    });
    let (manifest, manifest_size) = put(manifest.to_string().as_bytes());
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": media("manifest.v1+json"), "digest": manifest, "size": manifest_size,
            "annotations": {
                "io.containerd.image.name": "localhost/pause:1", "org.opencontainers.image.ref.name": "1",
            },
        }],
    });
    fs::write(folder.join("image/index.json"), index.to_string()).unwrap();
    fs::write(folder.join("image/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let archive = folder.join("image.tar");
    run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(folder.join("image")).arg("."));
    archive
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn missing() -> Option<&'static str> {
    let there = |path: &str| Path::new(path).exists();
    if !rustix::process::geteuid().is_root() {
        return Some("root");
    }
    [("/usr/bin/containerd", "containerd"), ("/usr/sbin/runc", "runc"), ("/bin/busybox", "busybox-static")]
        .into_iter()
        .find_map(|(path, name)| (!there(path)).then_some(name))
}

#[tokio::test(flavor = "multi_thread")]
async fn names_from_a_real_containerd_appear_survive_its_restart_and_disappear() {
    if let Some(missing) = missing() {
        assert!(std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_none(), "{missing} is needed");
        println!("SKIPPED: {missing} is missing");
        return;
    }
    let root = root();
    let folder = root.join("c");
    let base = root.join("run/kata");
    fs::create_dir_all(&base).unwrap();
    let mut containerd = Containerd::start(&folder).await;
    let socket = folder.join("containerd.sock");
    let agent = Agent::start(&root, &["--ebpf", "off", "--runtime-endpoint", &socket.display().to_string()]);

    let first = containerd.run_pod("first").await;
    let asked = Instant::now();
    fs::create_dir(base.join(&first)).unwrap();
    let page = agent.until("the first pod's name", |page| page.contains("pod=\"first\"")).await;
    println!("name on the page {:?} after the sandbox's directory", asked.elapsed());
    assert!(page.contains("runtime_handler=\"kata\"") && page.contains("uid=\"uid-first\""), "{page}");

    containerd.restart();
    let second = containerd.run_pod("second").await;
    fs::create_dir(base.join(&second)).unwrap();
    let page = agent.until("a pod made after the restart", |page| page.contains("pod=\"second\"")).await;
    assert!(page.contains("pod=\"first\""), "the first survives: {page}");

    for id in [&first, &second] {
        containerd.remove_pod(id).await;
        fs::remove_dir(base.join(id)).unwrap();
    }
    agent.until("none left", |page| !page.contains("kata_sandbox_info{")).await;
    drop(containerd);
    fs::remove_dir_all(&root).unwrap();
}
