//! The loop: scans that hang or come too early, and what is lost.

use super::fixture::{CONTAINER, HOST, host, process, stalled_process};
use super::*;
use crate::sandbox::Change;

const PATIENCE: Duration = Duration::from_secs(20);

fn new_loop(root: &std::path::Path) -> (Loop, mpsc::Receiver<Batch>) {
    let (out, batches) = mpsc::channel(64);
    (Loop::new(host(root), None, DiscoveryCounters::default(), out), batches)
}

#[tokio::test]
async fn what_is_lost_during_a_scan_is_looked_for_by_another_one_soon() {
    let root = tempfile::tempdir().unwrap();
    let (mut discovery, _batches) = new_loop(root.path());
    discovery.start_scan();
    discovery.take_notices(&mut vec![Notice::Overflow]);
    let report = finished(discovery.scan.as_mut()).await;
    discovery.scan = None;
    discovery.take_scan(report);
    assert!(discovery.next_scan <= Instant::now() + FIRST_LOOK, "the overflow was forgotten");
    discovery.start_scan();
    let report = finished(discovery.scan.as_mut()).await;
    discovery.scan = None;
    discovery.take_scan(report);
    assert!(discovery.next_scan > Instant::now() + FIRST_LOOK, "and it is answered once");
}

#[tokio::test]
async fn a_container_whose_arguments_cannot_be_read_holds_up_nothing() {
    let root = tempfile::tempdir().unwrap();
    let host = host(root.path());
    let mut stalls: Vec<_> = (10..20)
        .map(|pid| stalled_process(&host, pid, 1, 50, "/qemu-system-x86_64 -name sandbox-aa", CONTAINER))
        .collect();
    process(&host, 30, 1, 50, "/containerd-shim-kata-v2 -id aa", HOST);
    std::fs::create_dir(host.bases[0].path.join("aa")).unwrap();
    let (out, mut batches) = mpsc::channel(64);
    let counters = DiscoveryCounters::default();
    tokio::spawn(run(host, None, counters.clone(), out));
    let mut events = Vec::new();
    loop {
        let batch = tokio::time::timeout(PATIENCE, batches.recv()).await.expect("the first scan hangs").unwrap();
        events.extend(batch.events);
        if batch.first_scan {
            break;
        }
    }
    assert!(events.iter().any(|event| matches!(event.change, Change::ProcessStarted(..))), "the shim");
    assert!(stalls.iter_mut().all(|stall| !stall.has_reader()), "nobody reads what cannot be proven");
    assert_eq!(counters.foreign(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_scan_that_hangs_is_given_up_and_the_next_one_goes_round_what_it_hangs_in() {
    let root = tempfile::tempdir().unwrap();
    let (mut discovery, _batches) = new_loop(root.path());
    let host = host(root.path());
    let sandbox = host.bases[0].path.join("aa");
    std::fs::create_dir(&sandbox).unwrap();
    // A state file names a pid that a container has by now.
    std::fs::write(sandbox.join("persist.json"), r#"{"HypervisorState":{"Type":"qemu","Pid":40}}"#).unwrap();
    let mut stall = stalled_process(&host, 40, 1, 50, "/qemu-system-x86_64 -name sandbox-aa", CONTAINER);
    // Step by step: in the running loop a look at the pid may come first, and the scan goes round it at once.
    discovery.start_scan();
    let began = std::time::Instant::now();
    while !stall.has_reader() {
        assert!(began.elapsed() < PATIENCE, "nobody looked at it");
        tokio::task::yield_now().await;
    }
    tokio::time::advance(SCAN_PATIENCE + Duration::from_millis(1)).await;
    let report = finished(discovery.scan.as_mut()).await;
    assert!(report.is_none(), "it read through a stall");
    discovery.scan = None;
    discovery.take_scan(report);
    assert!(discovery.next_scan <= Instant::now() + FIRST_LOOK, "there will be no other soon");
    discovery.start_scan();
    let report = finished(discovery.scan.as_mut()).await.expect("the second scan hangs where the first did");
    assert_eq!(report.sandboxes.len(), 1);
    assert!(stall.has_reader(), "the first is still in there");
    drop(stall);
}

#[tokio::test]
async fn a_kernel_that_is_lost_is_told_to_whoever_shows_it() {
    let root = tempfile::tempdir().unwrap();
    let (mut discovery, _batches) = new_loop(root.path());
    let mut lost = discovery.explorer.counters().kernel_lost();
    discovery.lose_kernel(&std::io::Error::other("broken"));
    let reason = lost.wait_for(Option::is_some).await.unwrap().clone();
    assert_eq!(reason.as_deref(), Some("events ended: broken"));
}
