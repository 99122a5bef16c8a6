//! One machine of a test: its sandbox on the simulated node, its disk, its console, and what the kernel says of it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kata_pulse_sim::judge::Page;
use kata_pulse_sim::machine::{Console, Disk, DiskCache, GuestKernel, Machine, PodNetwork, pack};
use kata_pulse_sim::{ProcessUsage, SandboxSpec};

use crate::host::{Host, must_be_real};

/// Emulation is slow, and the machine may be shared.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const NAMESPACE: &str = "machines";
const DISK_BYTES: usize = 64 << 20;

/// One test at a time: the starved machine must not be starved by another test's.
pub static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What all machines boot; `None`, after saying why, where there can be none.
pub struct Boot {
    kernel: GuestKernel,
    initramfs: PathBuf,
    folder: PathBuf,
}

impl Boot {
    pub fn prepare() -> Option<Self> {
        let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/lab/kernel");
        let kernel = GuestKernel::find(&unpacked);
        let (None, Some(kernel)) = (Machine::missing(), kernel) else {
            let missing = Machine::missing().map_or_else(|| unpacked.display().to_string(), str::to_owned);
            assert!(!must_be_real(), "{missing} is needed: cargo xtask setup");
            println!("SKIPPED: {missing} is missing");
            return None;
        };
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // On the file system of the build, which is on storage; /tmp may be memory.
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("vm-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let initramfs = pack(&kernel, &folder).unwrap();
        Some(Self { kernel, initramfs, folder })
    }

    pub fn disk_file(&self) -> PathBuf {
        self.folder.join("disk")
    }

    /// A full file, so that writing to it moves no metadata.
    pub fn disk(&self, cache: DiskCache) -> Disk {
        let file = self.disk_file();
        let mut disk = File::create(&file).unwrap();
        disk.write_all(&vec![0x6b; DISK_BYTES]).unwrap();
        disk.sync_all().unwrap();
        Disk { file, cache }
    }
}

impl Drop for Boot {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The name of the device that a file is on; `None` where a file system has none of its own.
pub fn device_of(file: &Path) -> Option<String> {
    let device = fs::metadata(file).unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let link = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// A machine boots in three seconds, on a busy host in fifteen.
const BOOT_PATIENCE: Duration = Duration::from_secs(40);
const ATTEMPTS: u64 = 3;

/// A machine that has booted.
pub struct Running {
    pub id: String,
    pub vmm: u32,
    pub console: Console,
}

impl Running {
    /// An emulated machine now and then says nothing at all after its start: another one is made then.
    pub async fn start(
        host: &Host,
        boot: &Boot,
        number: u64,
        disk: Option<Disk>,
        network: Option<&PodNetwork>,
    ) -> Self {
        let mut said = String::new();
        for attempt in 0..ATTEMPTS {
            match Self::try_start(host, boot, number + attempt * 1000, disk.clone(), network).await {
                Ok(running) => return running,
                Err(error) => said = format!("{said}\n{error}"),
            }
        }
        panic!("no machine boots: {said}");
    }

    async fn try_start(
        host: &Host,
        boot: &Boot,
        number: u64,
        disk: Option<Disk>,
        network: Option<&PodNetwork>,
    ) -> std::io::Result<Self> {
        let mut spec: SandboxSpec = host.pod(number, "go-qemu", NAMESPACE);
        let (id, path) = (spec.id.clone(), host.root.join(format!("console{number}")));
        let mut console = Console::listen(&path).unwrap();
        let machine = Machine {
            id: &id,
            kernel: &boot.kernel,
            initramfs: &boot.initramfs,
            memory_mib: 256,
            console: &path,
            disk,
            network,
        };
        spec.processes.as_mut().unwrap().machine = Some(machine.command());
        let started = Instant::now();
        host.node.create(spec).await.unwrap();
        if let Err(error) = console.boot(BOOT_PATIENCE) {
            println!("machine {number} does not boot: {error}");
            host.node.remove(&id).await.unwrap();
            return Err(error);
        }
        let vmm = host.node.pids(&id).unwrap()["vmm"];
        println!("machine {number} obeys {:?} after its start, pid {vmm}", started.elapsed());
        host.settle(|page| page.sum("kata_sandbox_info", &[("sandbox_id", &id)]).is_some()).await;
        Ok(Self { id, vmm, console })
    }

    pub fn run(&mut self, line: &str) -> String {
        self.console.run(line, PATIENCE).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// A sum over what the page says of this machine.
    pub fn of(&self, page: &Page, family: &str, labels: &[(&str, &str)]) -> Option<f64> {
        page.sum(family, &[&[("sandbox_id", self.id.as_str())], labels].concat())
    }

    pub fn is_running(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.vmm)).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    /// Until the VMM has ended by whatever it was told or done.
    pub fn await_end(&self) {
        let started = Instant::now();
        while self.is_running() {
            assert!(started.elapsed() < PATIENCE, "the VMM {} has not ended", self.vmm);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Removes what is left in Kata's order; how the VMM had ended.
    pub async fn remove(&self, host: &Host) -> ProcessUsage {
        host.node.remove(&self.id).await.unwrap();
        let usage = host.node.usage(&self.id).unwrap();
        usage.into_iter().find(|one| one.role == "vmm" && one.pid == self.vmm).expect("the shim reaped its VMM")
    }
}
