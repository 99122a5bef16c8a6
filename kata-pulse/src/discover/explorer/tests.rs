//! Hints, true and forged, on a host of a few files.

use super::*;
use crate::discover::ebpf::{self, Directory, Origin, Process, Program};
use crate::discover::fixture::{CONTAINER, HOST, host, process, stalled_process};
use crate::discover::scan;
use crate::sandbox::ExitStatus;

const PATIENCE: Duration = Duration::from_secs(20);

struct Lab {
    _root: tempfile::TempDir,
    host: HostPaths,
    explorer: Explorer,
    looked: mpsc::Receiver<Looked>,
}

impl Lab {
    fn new(sight: Sight) -> Self {
        let root = tempfile::tempdir().unwrap();
        let host = host(root.path());
        let (ended, _) = mpsc::channel(8);
        let (done, looked) = mpsc::channel(64);
        let explorer = Explorer::new(host.clone(), DiscoveryCounters::default(), sight, ended, done);
        Self { _root: root, host, explorer, looked }
    }

    fn foreign(&self) -> u64 {
        self.explorer.counters().foreign()
    }

    /// Takes what the next look brought.
    async fn look(&mut self) {
        let looked = tokio::time::timeout(PATIENCE, self.looked.recv()).await.expect("no look was begun").unwrap();
        self.explorer.looked(looked);
    }

    /// What is proven: sandbox and pid.
    fn members(&self) -> Vec<(String, u32)> {
        let processes = &self.explorer.proven().processes;
        let mut members: Vec<_> = processes.iter().map(|(pid, one)| (one.sandbox.to_string(), pid.0)).collect();
        members.sort();
        members
    }
}

fn told(pid: u32, parent: u32, start: u64, origin: Origin) -> Process {
    let start_boot_ns = start * NS_PER_TICK;
    Process { boot_ns: 1, origin, pid, parent, start_boot_ns, uid: 0, mount_ns: 0, comm: Vec::new() }
}

fn exec(process: Process, line: &str) -> KernelEvent {
    let argv: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    KernelEvent::Exec { process, program: Program::Hypervisor, file: argv[0].clone(), argv }
}

fn made(name: &str) -> KernelEvent {
    let (origin, name) = (Origin::Host, name.as_bytes().to_vec());
    KernelEvent::DirectoryMade(Directory { boot_ns: 1, origin, base_index: 0, name, by_path: false, pid: 1, uid: 0 })
}

const VMM: &str = "/qemu-system-x86_64 -name sandbox-aa";
const SHIM: &str = "/containerd-shim-kata-v2 -id aa";

#[tokio::test]
async fn a_directory_that_is_gone_already_is_believed_by_its_inode_only() {
    let mut lab = Lab::new(Sight { exits: true, directories_by_inode: false, ..Sight::default() });
    lab.explorer.kernel_said(&made("aa"));
    assert!(lab.explorer.take_events(None).is_empty());
    assert_eq!(lab.foreign(), 1);
    let mut lab = Lab::new(Sight { exits: true, directories_by_inode: true, ..Sight::default() });
    lab.explorer.kernel_said(&made("aa"));
    let changes: Vec<_> = lab.explorer.take_events(None).into_iter().map(|event| event.change).collect();
    assert!(matches!(&changes[..], [Change::Appeared(_), Change::Removed(_)]), "{changes:?}");
}

#[tokio::test]
async fn the_same_refused_process_is_counted_once() {
    let mut lab = Lab::new(Sight::default());
    for _ in 0..3 {
        let refused = vec![(Pid(9), 50), (Pid(9), 60)];
        lab.explorer.scanned(ScanReport { refused, refused_beyond: 5, ..ScanReport::default() }, false);
    }
    assert_eq!(lab.foreign(), 2 + 5);
}

#[tokio::test]
async fn a_forged_exec_is_refused_by_what_the_event_says_without_a_look_at_proc() {
    let mut lab = Lab::new(Sight::default());
    for _ in 0..2 {
        lab.explorer.kernel_said(&exec(told(9, 8, 50, Origin::Foreign), VMM));
    }
    assert_eq!(lab.foreign(), 1, "there is no such process in this procfs");
}

#[tokio::test]
async fn a_look_that_hangs_holds_up_no_other() {
    let mut lab = Lab::new(Sight::default());
    // Safe to read, one would think: of the host's root.
    let mut stall = stalled_process(&lab.host, 9, 1, 50, VMM, HOST);
    process(&lab.host, 10, 1, 50, SHIM, HOST);
    lab.explorer.kernel_said(&exec(told(9, 1, 50, Origin::Host), VMM));
    lab.explorer.kernel_said(&exec(told(10, 1, 50, Origin::Host), SHIM));
    lab.look().await;
    assert_eq!(lab.members(), [("aa".to_owned(), 10)]);
    let began = std::time::Instant::now();
    while !stall.has_reader() {
        assert!(began.elapsed() < PATIENCE, "the other look was not begun");
        tokio::task::yield_now().await;
    }
    // Its own patience ends while the read hangs.
    lab.look().await;
    assert_eq!(lab.members().len(), 1);
    drop(stall);
}

#[tokio::test]
async fn a_child_waits_for_the_look_at_its_parent() {
    let mut lab = Lab::new(Sight::default());
    process(&lab.host, 10, 1, 50, SHIM, HOST);
    process(&lab.host, 11, 10, 60, VMM, CONTAINER);
    lab.explorer.kernel_said(&exec(told(10, 1, 50, Origin::Host), SHIM));
    lab.explorer.kernel_said(&exec(told(11, 10, 60, Origin::Host), VMM));
    lab.look().await;
    lab.look().await;
    assert_eq!(lab.members(), [("aa".to_owned(), 10), ("aa".to_owned(), 11)]);
    assert_eq!(lab.foreign(), 0);
}

#[tokio::test]
async fn an_end_that_is_told_during_the_look_follows_it_with_its_status() {
    let mut lab = Lab::new(Sight::default());
    make_directory(&mut lab);
    process(&lab.host, 10, 1, 50, VMM, HOST);
    lab.explorer.kernel_said(&exec(told(10, 1, 50, Origin::Host), VMM));
    let status = Some(crate::discover::ebpf::ExitStatus::Code(3));
    lab.explorer.kernel_said(&KernelEvent::Exit { process: told(10, 1, 50, Origin::Host), status, account: None });
    lab.look().await;
    let events = lab.explorer.take_events(None);
    let ended = |event: &DiscoveryEvent| matches!(event.change, Change::ProcessEnded(_, _, exit) if exit.status == Some(ExitStatus::Code(3)));
    assert!(events.iter().any(ended), "{events:?}");
    assert!(lab.members().is_empty());
}

#[tokio::test]
async fn a_pid_that_another_process_has_now_ends_the_old_one() {
    let mut lab = Lab::new(Sight::default());
    make_directory(&mut lab);
    process(&lab.host, 10, 1, 50, VMM, HOST);
    lab.explorer.kernel_said(&exec(told(10, 1, 50, Origin::Host), VMM));
    lab.look().await;
    let later = "/qemu-system-x86_64 -name sandbox-bb";
    process(&lab.host, 10, 1, 99, later, HOST);
    lab.explorer.kernel_said(&exec(told(10, 1, 99, Origin::Host), later));
    lab.look().await;
    assert_eq!(lab.members(), [("bb".to_owned(), 10)]);
    let events = lab.explorer.take_events(None);
    let ended = |event: &DiscoveryEvent| matches!(&event.change, Change::ProcessEnded(id, old, _) if id.as_str() == "aa" && old.start_ticks == 50);
    assert!(events.iter().any(ended), "{events:?}");
}

#[tokio::test]
async fn a_program_on_the_way_to_a_vmm_is_not_its_end() {
    let mut lab = Lab::new(Sight { exits: true, ..Sight::default() });
    std::fs::create_dir(lab.host.bases[0].path.join("aa")).unwrap();
    lab.explorer.directory_made(0, b"aa");
    process(&lab.host, 10, 1, 50, VMM, HOST);
    let one = || told(10, 1, 50, Origin::Host);
    // It is being looked at when the kernel tells of a wrapper, and then of the VMM.
    lab.explorer.kernel_said(&exec(one(), VMM));
    let wrapper =
        KernelEvent::Exec { process: one(), program: Program::Other, file: b"/sbin/ip".to_vec(), argv: vec![] };
    lab.explorer.kernel_said(&wrapper);
    lab.explorer.kernel_said(&exec(one(), VMM));
    lab.look().await;
    lab.look().await;
    assert_eq!(lab.members(), [("aa".to_owned(), 10)]);
    assert_eq!(lab.explorer.next_event(), None, "no end is held back");
}

#[tokio::test]
async fn a_pid_in_a_state_file_is_believed_of_a_process_that_is_older_than_the_file() {
    let mut lab = Lab::new(Sight::default());
    let in_a_minute = clock::to_ticks(clock::boot_now()) + 6000;
    for (id, pid, start) in [("aa", 40, 1), ("bb", 41, in_a_minute)] {
        process(&lab.host, pid, 1, start, "/firecracker --api-sock /x", CONTAINER);
        let sandbox = lab.host.bases[0].path.join(id);
        std::fs::create_dir(&sandbox).unwrap();
        let state = format!("{{\"HypervisorState\":{{\"Type\":\"firecracker\",\"Pid\":{pid}}}}}");
        std::fs::write(sandbox.join("persist.json"), state).unwrap();
        lab.explorer.directory_made(0, id.as_bytes());
        lab.explorer.take_events(None);
        lab.look().await;
    }
    assert_eq!(lab.members(), [("aa".to_owned(), 40)]);
    assert_eq!(lab.foreign(), 1);
}

#[tokio::test]
async fn a_scan_does_not_take_back_what_was_read_while_it_walked() {
    let mut lab = Lab::new(Sight::default());
    let sandbox = lab.host.bases[0].path.join("aa");
    std::fs::create_dir(&sandbox).unwrap();
    lab.explorer.directory_made(0, b"aa");
    let report = scan::walk(&lab.host, lab.explorer.proven().clone(), lab.explorer.reads());
    std::fs::write(sandbox.join("persist.json"), r#"{"HypervisorState":{"Type":"qemu"}}"#).unwrap();
    let id = SandboxId::parse("aa").unwrap();
    lab.explorer.files_changed(&id);
    lab.explorer.scanned(report, false);
    let told = lab.explorer.take_events(None).into_iter().filter_map(|event| match event.change {
        Change::Files(_, facts) => Some(facts.has_state),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [true], "and told once");
}

const WATCHFUL: Sight = Sight { exits: true, releases: true, directories_by_inode: false };

/// A process that only the kernel's programs ever saw.
fn fleeting() -> Process {
    Process { mount_ns: HOST as u32, ..told(10, 1, 50, Origin::Host) }
}

fn exit(is_final: bool) -> KernelEvent {
    let account = ebpf::Account { user_ns: 3_000_000, is_final, ..ebpf::Account::default() };
    let (process, status, account) = (fleeting(), Some(ebpf::ExitStatus::Code(3)), Some(account));
    if is_final {
        KernelEvent::Released { process, status, account }
    } else {
        KernelEvent::Exit { process, status, account }
    }
}

/// What was told of processes: began, or ended with a final account or not.
fn changes(lab: &mut Lab) -> Vec<&'static str> {
    let word = |event: DiscoveryEvent| match event.change {
        Change::ProcessStarted(..) => Some("began"),
        Change::ProcessEnded(_, _, exit) if exit.account.is_none() => Some("ended unaccounted"),
        Change::ProcessEnded(_, _, exit) if exit.account_is_final => Some("ended for good"),
        Change::ProcessEnded(..) => Some("ended"),
        _ => None,
    };
    lab.explorer.take_events(None).into_iter().filter_map(word).collect()
}

fn make_directory(lab: &mut Lab) {
    std::fs::create_dir(lab.host.bases[0].path.join("aa")).unwrap();
    lab.explorer.directory_made(0, b"aa");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_gone_before_anybody_looks_is_told_with_its_account() {
    let mut lab = Lab::new(WATCHFUL);
    make_directory(&mut lab);
    for event in [exec(fleeting(), VMM), exit(false), exit(true)] {
        lab.explorer.kernel_said(&event);
    }
    lab.look().await;
    assert_eq!(changes(&mut lab), ["began", "ended for good"]);
    assert!(lab.explorer.take_joined().is_empty(), "nothing to follow any more");
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_told_of_a_process_in_a_container_proves_nothing() {
    let mut lab = Lab::new(WATCHFUL);
    make_directory(&mut lab);
    let elsewhere = Process { mount_ns: CONTAINER as u32, ..fleeting() };
    let user = Process { uid: 1000, pid: 11, ..fleeting() };
    for process in [elsewhere, user] {
        lab.explorer.kernel_said(&exec(process, VMM));
    }
    assert!(changes(&mut lab).is_empty());
    assert_eq!(lab.foreign(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_end_waits_for_the_release_and_not_for_ever() {
    let mut lab = Lab::new(WATCHFUL);
    make_directory(&mut lab);
    lab.explorer.kernel_said(&exec(fleeting(), VMM));
    lab.look().await;
    assert_eq!(changes(&mut lab), ["began"]);
    lab.explorer.kernel_said(&exit(false));
    assert!(changes(&mut lab).is_empty());
    tokio::time::sleep_until(lab.explorer.next_event().unwrap()).await;
    assert_eq!(changes(&mut lab), ["ended"]);
    assert_eq!(lab.explorer.next_event(), None);
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_is_noticed_late_or_went_already_is_still_its_processes() {
    let mut lab = Lab::new(WATCHFUL);
    lab.explorer.kernel_said(&exec(fleeting(), VMM));
    lab.look().await;
    lab.explorer.kernel_said(&exit(true));
    assert!(changes(&mut lab).is_empty(), "nobody knows the sandbox");
    make_directory(&mut lab);
    assert_eq!(changes(&mut lab), ["began", "ended for good"]);

    let mut lab = Lab::new(WATCHFUL);
    lab.explorer.directory_made(0, b"aa");
    lab.explorer.kernel_said(&exec(fleeting(), VMM));
    lab.explorer.kernel_said(&exit(true));
    lab.look().await;
    assert_eq!(changes(&mut lab), ["began", "ended for good"]);
}

#[tokio::test(start_paused = true)]
async fn an_end_of_no_sandbox_is_forgotten() {
    let mut lab = Lab::new(WATCHFUL);
    lab.explorer.kernel_said(&exec(fleeting(), VMM));
    lab.look().await;
    lab.explorer.kernel_said(&exit(true));
    assert!(changes(&mut lab).is_empty());
    tokio::time::sleep_until(lab.explorer.next_event().unwrap()).await;
    assert!(changes(&mut lab).is_empty());
    assert_eq!(lab.explorer.next_event(), None);
}

#[tokio::test]
async fn a_scan_that_is_first_does_not_cost_the_account() {
    let mut lab = Lab::new(WATCHFUL);
    make_directory(&mut lab);
    process(&lab.host, 10, 1, 50, VMM, HOST);
    lab.explorer.kernel_said(&exec(fleeting(), VMM));
    lab.look().await;
    std::fs::remove_dir_all(lab.host.procfs.join("10")).unwrap();
    lab.explorer.scanned(ScanReport { procfs_is_readable: true, ..ScanReport::default() }, false);
    lab.explorer.kernel_said(&exit(false));
    lab.explorer.kernel_said(&exit(true));
    assert_eq!(changes(&mut lab), ["began", "ended for good"]);
}

#[tokio::test]
async fn a_walk_that_saw_a_process_before_its_end_does_not_bring_it_back() {
    let mut lab = Lab::new(WATCHFUL);
    make_directory(&mut lab);
    process(&lab.host, 10, 1, 50, VMM, HOST);
    let report = scan::walk(&lab.host, lab.explorer.proven().clone(), lab.explorer.reads());
    lab.explorer.kernel_said(&exec(fleeting(), VMM));
    lab.look().await;
    std::fs::remove_dir_all(lab.host.procfs.join("10")).unwrap();
    lab.explorer.kernel_said(&exit(true));
    assert_eq!(changes(&mut lab), ["began", "ended for good"]);
    lab.explorer.scanned(report, false);
    assert!(changes(&mut lab).is_empty());
}
