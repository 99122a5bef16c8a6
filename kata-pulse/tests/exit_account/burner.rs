//! A process under a VMM's name that uses known amounts and ends in a known way: the test's own program, started again.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

const ORDER: &str = "KATA_PULSE_BURNER";
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// The last thread left returns.
    Return,
    /// `exit_group` while all other threads spin.
    ExitGroup,
    /// Spins until it is killed.
    Killed,
    /// The leader ends first, then all others but one, then that one.
    LeaderFirst,
}

/// What it is to use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Burner {
    pub ending: Ending,
    /// Besides two: the leader and the one that gives orders.
    pub threads: u32,
    /// CPU time of each of those.
    pub burn: Duration,
    /// How long it lives at least.
    pub live: Duration,
    pub resident_bytes: usize,
    pub written_bytes: usize,
    /// Where it says that it has used all that.
    pub ready: PathBuf,
}

impl Burner {
    pub fn idle(folder: &Path) -> Self {
        Self {
            ending: Ending::Return,
            threads: 0,
            burn: Duration::ZERO,
            live: Duration::ZERO,
            resident_bytes: 0,
            written_bytes: 0,
            ready: folder.join("ready"),
        }
    }

    /// Starts it as the VMM of sandbox `id`; `program` is what [`install`] made.
    pub fn start(&self, program: &Path, id: &str) -> Child {
        let order = serde_json::to_string(self).unwrap();
        let mut command = Command::new(program);
        // Everything after the two dashes is names of tests for the harness, and a command line of QEMU's for others.
        command.args(["--exact", "burner", "--nocapture", "--", "-name", &format!("sandbox-{id}")]);
        command.env(ORDER, order).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
    }

    pub fn until_ready(&self) {
        let started = Instant::now();
        while !self.ready.exists() {
            assert!(started.elapsed() < PATIENCE, "the burner never said that it is ready");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn run(&self) {
        let began = Instant::now();
        let memory = resident(self.resident_bytes);
        if self.written_bytes > 0 {
            write(&self.ready.with_extension("disk"), self.written_bytes);
        }
        let (told, done) = std::sync::mpsc::channel();
        for _ in 0..self.threads {
            let (burn, told, ending) = (self.burn, told.clone(), self.ending);
            std::thread::spawn(move || {
                while thread_cpu() < burn {}
                told.send(()).unwrap();
                if matches!(ending, Ending::ExitGroup | Ending::Killed) {
                    spin_for_ever();
                }
            });
        }
        (0..self.threads).for_each(|_| done.recv().unwrap());
        std::thread::sleep(self.live.saturating_sub(began.elapsed()));
        File::create(&self.ready).unwrap();
        self.end();
        drop(memory);
    }

    fn end(&self) {
        match self.ending {
            Ending::Return => {}
            Ending::ExitGroup => std::process::exit(3),
            Ending::Killed => loop {
                std::thread::park();
            },
            Ending::LeaderFirst => {
                end_leader();
                while thread_cpu() < self.burn {}
                std::process::exit(3);
            }
        }
    }
}

/// What the test named `burner` is to do: nothing, but in a process that a test has started.
pub fn play() {
    if let Ok(order) = std::env::var(ORDER) {
        serde_json::from_str::<Burner>(&order).unwrap().run();
    }
}

/// The test's own program under a VMM's name.
pub fn install(folder: &Path) -> PathBuf {
    let program = folder.join("qemu-system-x86_64");
    std::fs::hard_link(std::env::current_exe().unwrap(), &program).unwrap();
    program
}

/// A folder beside the test's program, on the same disk.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap()
}

fn spin_for_ever() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

fn thread_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap()
}

fn resident(bytes: usize) -> Vec<u8> {
    let mut memory = vec![0; bytes];
    memory.iter_mut().step_by(1024).for_each(|byte| *byte = 1);
    std::hint::black_box(memory)
}

/// Past the page cache where the file system lets it, else forced out of it.
fn write(path: &Path, bytes: usize) {
    const BLOCK: usize = 64 * 1024;
    let memory = vec![0x6b_u8; 2 * BLOCK];
    let at = memory.as_ptr().align_offset(BLOCK);
    let block = &memory[at..at + BLOCK];
    let open =
        |flags| std::fs::OpenOptions::new().create(true).truncate(true).write(true).custom_flags(flags).open(path);
    let mut file = open(libc::O_DIRECT).or_else(|_| open(0)).unwrap();
    for _ in 0..bytes / BLOCK {
        file.write_all(block).unwrap();
    }
    file.sync_all().unwrap();
}

#[expect(unsafe_code, reason = "one thread of many is ended, which no safe interface offers")]
fn end_leader() {
    extern "C" fn leave(_signal: libc::c_int) {
        // SAFETY: ends the calling thread, which is the leader, and returns to nobody.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
    let pid = std::process::id();
    // SAFETY: the handler makes one system call; the signal goes to the leader alone.
    unsafe {
        libc::signal(libc::SIGUSR1, leave as *const () as libc::sighandler_t);
        libc::syscall(libc::SYS_tgkill, pid, pid, libc::SIGUSR1);
    }
    let started = Instant::now();
    while !std::fs::read_to_string("/proc/self/stat").unwrap().contains(") Z ") {
        assert!(started.elapsed() < PATIENCE, "the leader does not end");
        std::thread::yield_now();
    }
}

/// What the kernel says at the last possible moment, to whom waits for the process.
#[derive(Clone, Copy, Debug)]
pub struct Truth {
    pub user: Duration,
    pub system: Duration,
    pub minor_faults: u64,
    pub major_faults: u64,
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
    pub peak_rss_bytes: u64,
    /// `/proc/<pid>/io` after its end: calls read and written, bytes read and written.
    pub io: [u64; 4],
}

impl Truth {
    pub fn cpu(&self) -> Duration {
        self.user + self.system
    }
}

/// Waits for a child's end, reads what is left of it, and lets it go.
#[expect(unsafe_code, reason = "wait4 gives what the process used; there is no safe one")]
pub fn reap(child: Child) -> Truth {
    let pid = child.id();
    // SAFETY: plain structures of integers, for which zeros are valid.
    let (mut info, mut usage): (libc::siginfo_t, libc::rusage) = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is ours and outlives the call.
    let waited = unsafe { libc::waitid(libc::P_PID, pid, &raw mut info, libc::WEXITED | libc::WNOWAIT) };
    assert_eq!(waited, 0, "{}", std::io::Error::last_os_error());
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let line = |name: &str| -> u64 {
        let found = io.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.unwrap().parse().unwrap()
    };
    let io = [line("syscr"), line("syscw"), line("read_bytes"), line("write_bytes")];
    // SAFETY: as above; nobody else waits for this child, and it is not used any more.
    let reaped = unsafe { libc::wait4(pid as i32, std::ptr::null_mut(), 0, &raw mut usage) };
    assert_eq!(reaped, pid as i32, "{}", std::io::Error::last_os_error());
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    Truth {
        user: time(usage.ru_utime),
        system: time(usage.ru_stime),
        minor_faults: usage.ru_minflt as u64,
        major_faults: usage.ru_majflt as u64,
        voluntary_switches: usage.ru_nvcsw as u64,
        involuntary_switches: usage.ru_nivcsw as u64,
        peak_rss_bytes: usage.ru_maxrss as u64 * 1024,
        io,
    }
}
