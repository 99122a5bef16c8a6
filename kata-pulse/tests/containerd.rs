//! Debian's real containerd with CRI pods whose runtime handler is `kata`: names appear on the page, survive a restart
//! of containerd, and disappear with their pod.

mod support;

use std::fs;
use std::time::Instant;

use kata_pulse_sim::rig::{Containerd, KataHandler, PodConfig};
use support::{Agent, root};

#[tokio::test(flavor = "multi_thread")]
async fn names_from_a_real_containerd_appear_survive_its_restart_and_disappear() {
    if let Some(missing) = Containerd::missing() {
        assert!(std::env::var_os("KATA_PULSE_REQUIRE_REAL").is_none(), "{missing} is needed");
        println!("SKIPPED: {missing} is missing");
        return;
    }
    let root = root();
    let folder = root.join("c");
    let base = root.join("run/kata");
    fs::create_dir_all(&base).unwrap();
    let mut containerd = Containerd::start(&folder, KataHandler::Runc).await.unwrap();
    let socket = containerd.socket().display().to_string();
    let agent = Agent::start(&root, &["--ebpf", "off", "--runtime-endpoint", &socket]);

    let first = containerd.run_pod(&PodConfig::kata("first")).await.unwrap();
    let asked = Instant::now();
    fs::create_dir(base.join(&first)).unwrap();
    let page = agent.until("the first pod's name", |page| page.contains("pod=\"first\"")).await;
    println!("name on the page {:?} after the sandbox's directory", asked.elapsed());
    assert!(page.contains("runtime_handler=\"kata\"") && page.contains("uid=\"uid-first\""), "{page}");

    containerd.restart().unwrap();
    let second = containerd.run_pod(&PodConfig::kata("second")).await.unwrap();
    fs::create_dir(base.join(&second)).unwrap();
    let page = agent.until("a pod made after the restart", |page| page.contains("pod=\"second\"")).await;
    assert!(page.contains("pod=\"first\""), "the first survives: {page}");

    for id in [&first, &second] {
        containerd.remove_pod(id).await.unwrap();
        fs::remove_dir(base.join(id)).unwrap();
    }
    agent.until("none left", |page| !page.contains("kata_pulse_sandboxes{")).await;
    drop(containerd);
    fs::remove_dir_all(&root).unwrap();
}
