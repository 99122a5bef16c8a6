//! What a shim does when its guest hangs or lies, on a clock that stands still until everybody waits.

mod support;

use std::sync::Arc;
use std::time::Duration;

use kata_pulse_sim::Fault;
use support::{ID, ask, get, node_with, socket, spec};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};

fn seconds(range: std::ops::Range<u64>, since: Instant) -> bool {
    (Duration::from_secs(range.start)..Duration::from_secs(range.end)).contains(&since.elapsed())
}

#[tokio::test(start_paused = true)]
async fn go_sends_its_own_part_at_once_and_ends_half_a_minute_later_without_the_guest() {
    let root = tempfile::tempdir().expect("a folder");
    let node = node_with(root.path(), spec("go-qemu")).await;
    node.set_fault(ID, Some(Fault::HungGuest)).expect("a fault");
    let asked = Instant::now();
    let mut stream = ask(&socket(root.path(), "go-qemu"), "/metrics").await;
    let mut page = Vec::new();
    // Silence is a second on the paused clock: it passes only when nothing more can be read.
    while let Ok(Ok(1..)) = timeout(Duration::from_secs(1), stream.read_buf(&mut page)).await {}
    assert!(seconds(1..2, asked), "{:?}", asked.elapsed());
    let part = String::from_utf8_lossy(&page).into_owned();
    assert!(
        part.contains("kata_hypervisor_threads") && part.contains("kata_shim_fds") && !part.contains("# remainder")
    );
    stream.read_to_end(&mut page).await.expect("the rest");
    assert!(seconds(28..34, asked), "{:?}", asked.elapsed());
    let page = String::from_utf8_lossy(&page);
    assert!(page.ends_with("0\r\n\r\n") && !page.contains("kata_guest_"), "it ends well, without the guest");
}

#[tokio::test(start_paused = true)]
async fn runtime_rs_says_nothing_for_a_minute_and_then_its_own_part() {
    let root = tempfile::tempdir().expect("a folder");
    let node = node_with(root.path(), spec("rs-dragonball")).await;
    node.set_fault(ID, Some(Fault::HungGuest)).expect("a fault");
    let asked = Instant::now();
    let mut stream = ask(&socket(root.path(), "rs-dragonball"), "/metrics").await;
    let mut page = String::new();
    assert!(timeout(Duration::from_secs(59), stream.read_u8()).await.is_err(), "not a byte");
    stream.read_to_string(&mut page).await.expect("the page");
    assert!(seconds(60..61, asked), "{:?}", asked.elapsed());
    assert!(
        page.contains("kata_shim_threads") && !page.contains("kata_guest_") && page.len() < 2_500,
        "{}",
        page.len()
    );
}

#[tokio::test(start_paused = true)]
async fn agent_url_is_answered_while_the_guest_hangs() {
    let root = tempfile::tempdir().expect("a folder");
    let node = node_with(root.path(), spec("rs-clh")).await;
    node.set_fault(ID, Some(Fault::HungGuest)).expect("a fault");
    let asked = Instant::now();
    assert!(get(&socket(root.path(), "rs-clh"), "/agent-url").await.contains("ch-vm.sock"));
    assert!(seconds(0..1, asked));
}

#[tokio::test(start_paused = true)]
async fn a_runtime_gives_a_hung_guest_up_unless_it_heals() {
    for (kind, limit) in [("go-qemu", 33), ("rs-clh", 95)] {
        let root = tempfile::tempdir().expect("a folder");
        let node = Arc::new(node_with(root.path(), spec(kind)).await);
        let started = Instant::now();
        let healed = node.hang(ID).expect("the sandbox");
        node.set_fault(ID, None).expect("the sandbox");
        healed.await.expect("the task").expect("nothing done");
        assert_eq!(node.ids(), [ID]);
        node.hang(ID).expect("the sandbox").await.expect("the task").expect("given up");
        assert!(node.ids().is_empty() && !socket(root.path(), kind).exists(), "{kind}");
        assert!(seconds(2 * limit..2 * limit + 1, started), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_hundred_megabytes_come_whole() {
    let root = tempfile::tempdir().expect("a folder");
    let node = node_with(root.path(), spec("go-qemu")).await;
    node.set_fault(ID, Some(Fault::HugeBody(100_000_000))).expect("a fault");
    let mut stream = ask(&socket(root.path(), "go-qemu"), "/metrics").await;
    let bytes = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.expect("the body");
    assert!((100_000_000..100_000_200).contains(&bytes), "{bytes}");
}

#[tokio::test(start_paused = true)]
async fn a_drip_is_a_byte_a_second_for_ever() {
    let root = tempfile::tempdir().expect("a folder");
    let node = node_with(root.path(), spec("go-clh")).await;
    node.set_fault(ID, Some(Fault::Drip)).expect("a fault");
    let mut stream = ask(&socket(root.path(), "go-clh"), "/metrics").await;
    let mut body = Vec::new();
    let read = async { while stream.read_buf(&mut body).await.is_ok_and(|bytes| bytes > 0) {} };
    assert!(timeout(Duration::from_millis(300_500), read).await.is_err(), "it does not end");
    let drops = body.windows(6).filter(|part| part == b"1\r\n#\r\n").count();
    assert!((295..=302).contains(&drops), "{drops}");
    assert_eq!(node.max_in_flight(ID).expect("the sandbox"), 1);
}
