//! A known number of bytes through the machine's disk and through its network.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;

use kata_pulse_sim::IoUsage;
use kata_pulse_sim::judge::{Findings, Page};
use kata_pulse_sim::machine::{DiskCache, GUEST_ADDRESS, OUTSIDE_ADDRESS, PodNetwork};

use crate::host::{Host, has_ebpf};
use crate::rig::{Boot, NAMESPACE, ONE_AT_A_TIME, Running, device_of};

const MIB: u64 = 1 << 20;
const WRITTEN: u64 = 24 * MIB;
const READ: u64 = 16 * MIB;
const SENT: u64 = 8 * MIB;
const RECEIVED: u64 = 3 * MIB;
/// Headers, acknowledgements and neighbours' questions, as a share of what is carried. TCP's own come once for each
/// packet, and a large one may count as one.
const FRAMING: f64 = 0.10;
/// The kernel's own reads and writes of metadata that a file needs.
const METADATA: f64 = 256.0 * 1024.0;

const IO_BYTES: &str = "kata_sandbox_io_bytes_total";
const BLOCK_BYTES: &str = "kata_sandbox_block_io_bytes_total";
const BLOCK_SECONDS: &str = "kata_sandbox_block_io_seconds_count";
const NETWORK: &str = "kata_sandbox_host_network_bytes_total";
const QDISC_DROPS: &str = "kata_sandbox_host_qdisc_drops_total";
const THREAD_CPU: &str = "kata_sandbox_thread_cpu_seconds_total";
const OF_NAMESPACE: &str = "kata_namespace_network_bytes_total";

/// Counters of one interface in the VMM's network namespace: received and transmitted bytes as the host sees them.
fn interface(vmm: u32, name: &str) -> (f64, f64) {
    let text = std::fs::read_to_string(format!("/proc/{vmm}/net/dev")).unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':')).unwrap();
    let numbers: Vec<f64> = line.split_ascii_whitespace().map(|number| number.parse().unwrap()).collect();
    (numbers[0], numbers[8])
}

/// Counts what comes until the peer is done.
fn sink(listener: TcpListener) -> JoinHandle<u64> {
    std::thread::spawn(move || std::io::copy(&mut listener.accept().unwrap().0, &mut std::io::sink()).unwrap())
}

/// Answers one request of `wget`.
fn source(listener: TcpListener, bytes: u64) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0, "no request");
        write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {bytes}\r\n\r\n").unwrap();
        std::io::copy(&mut std::io::repeat(7).take(bytes), &mut stream).unwrap();
    })
}

/// What is told of one device, both operations.
fn judge_blocks(findings: &mut Findings, machine: &Running, pages: [&Page; 2], device: &str) {
    let grown = |family: &str, operation: &str| {
        let labels = [("device", device), ("operation", operation)];
        let before = machine.of(pages[0], family, &labels).unwrap_or(0.0);
        machine.of(pages[1], family, &labels).map(|after| after - before)
    };
    for (operation, bytes) in [("write", WRITTEN), ("read", READ)] {
        findings.near(
            &format!("bytes of {operation} on {device}"),
            grown(BLOCK_BYTES, operation),
            bytes as f64,
            METADATA,
        );
        let what = format!("requests of {operation} on {device}");
        // At most one for each page, at least one for each 4 MiB.
        findings.between(&what, grown(BLOCK_SECONDS, operation), (bytes / (4 * MIB)) as f64, (bytes / 4096) as f64);
    }
    let elsewhere = pages[1].all(BLOCK_BYTES, &[("sandbox_id", &machine.id)]);
    let elsewhere: Vec<_> = elsewhere.into_iter().filter(|sample| sample.labels["device"] != device).collect();
    findings.holds(elsewhere.is_empty(), format!("bytes on other devices: {elsewhere:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_disk_and_network_have_their_device_operation_and_direction() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Some(boot) = Boot::prepare() else { return };
    let host = Host::start(1, 60).await;
    let network = PodNetwork::make(&format!("kp{:x}", std::process::id())).unwrap();
    let (sent, wanted) = (network.listen_outside(7001).unwrap(), network.listen_outside(7002).unwrap());
    let disk = boot.disk(DiskCache::None);
    let device = device_of(&disk.file);
    let mut machine = Running::start(&host, &boot, 1, Some(disk), Some(&network)).await;
    machine.run(&format!("ip link set eth0 up && ip address add {GUEST_ADDRESS}/24 dev eth0"));

    let before = host.settle(|page| machine.of(page, IO_BYTES, &[("role", "vmm")]).is_some()).await;
    let io_before = IoUsage::of(machine.vmm).unwrap();
    let written = WRITTEN / MIB;
    machine.run(&format!("dd if=/dev/zero of=/dev/vda bs=1M count={written} oflag=direct conv=fsync 2>/dev/null"));
    let (skipped, read) = (32, READ / MIB);
    machine.run(&format!("dd if=/dev/vda of=/dev/null bs=1M skip={skipped} count={read} iflag=direct 2>/dev/null"));
    let io = IoUsage::of(machine.vmm).unwrap();
    let (wrote, read) = (io.written_bytes - io_before.written_bytes, io.read_bytes - io_before.read_bytes);
    println!("the kernel counts {wrote} bytes written and {read} read by the VMM");
    assert!((WRITTEN..WRITTEN + MIB).contains(&wrote) && (READ..READ + MIB).contains(&read));

    let (sink, source) = (sink(sent), source(wanted, RECEIVED));
    machine.run(&format!("dd if=/dev/zero bs=64k count={} 2>/dev/null | nc {OUTSIDE_ADDRESS} 7001", SENT / 65536));
    assert_eq!(sink.join().unwrap(), SENT, "what the outside got");
    let got = machine.run(&format!("wget -q -O - http://{OUTSIDE_ADDRESS}:7002/ | wc -c"));
    source.join().unwrap();
    assert_eq!(got.trim().parse::<u64>().unwrap(), RECEIVED, "what the guest got");
    let (pod, tap) = (network.interface(), network.tap());
    let (eth0, mirrored) = (interface(machine.vmm, pod), interface(machine.vmm, tap));
    println!("received and transmitted by {pod} {eth0:?}, by {tap} {mirrored:?}");
    assert!(eth0.1 >= SENT as f64 && eth0.0 >= RECEIVED as f64);
    assert!(mirrored.0 >= SENT as f64 && mirrored.1 >= RECEIVED as f64, "the tap sees the other direction");

    let labels = |interface, direction| [("interface", interface), ("direction", direction)];
    let page = host
        .settle(|page| {
            machine.of(page, NETWORK, &labels(pod, "receive")) == Some(eth0.0)
                && machine.of(page, IO_BYTES, &[("direction", "read"), ("role", "vmm")]) >= Some(io.read_bytes as f64)
        })
        .await;
    let mut findings = Findings::default();
    for (family, labels) in [(QDISC_DROPS, [("interface", pod)]), (THREAD_CPU, [("role", "vcpu")])] {
        findings.holds(machine.of(&page, family, &labels).is_some(), format!("{family} is asked for by a flag"));
    }
    for (direction, truth) in [("write", io.written_bytes), ("read", io.read_bytes)] {
        let seen = machine.of(&page, IO_BYTES, &[("direction", direction), ("role", "vmm")]);
        findings.near(&format!("bytes of {direction} of the VMM"), seen, truth as f64, METADATA);
    }
    // The pod's direction: what the tap transmits, the pod receives. A last packet may come in between.
    for (name, receive, transmit) in [(pod, eth0.0, eth0.1), (tap, mirrored.1, mirrored.0)] {
        for (direction, truth) in [("receive", receive), ("transmit", transmit)] {
            let seen = machine.of(&page, NETWORK, &labels(name, direction));
            findings.near(&format!("{direction} of {name}"), seen, truth, 4096.0);
        }
    }
    for (direction, bytes) in [("receive", RECEIVED), ("transmit", SENT)] {
        let seen = page.sum(OF_NAMESPACE, &[("namespace", NAMESPACE), ("direction", direction)]);
        // Mirrored bytes added would double it; the other way is acknowledged.
        let most = bytes as f64 * (1.0 + FRAMING) + (SENT + RECEIVED) as f64 * FRAMING;
        findings.between(&format!("{direction} of the namespace, once"), seen, bytes as f64, most);
    }
    match device.filter(|_| has_ebpf(&page, "bytes by device")) {
        Some(device) => judge_blocks(&mut findings, &machine, [&before, &page], &device),
        None => println!("SKIPPED: bytes by device are not known here"),
    }
    drop(machine);
    host.end().await;
    findings.end();
}
