//! A machine's serial line: commands go in, their output and codes come out. The machine connects when it starts.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const READY: &str = "GUEST READY\n";
const DONE: &str = "GUEST DONE ";
/// Of one command; more is a guest that raves.
const OUTPUT_BYTES: usize = 1 << 20;
const POLL: Duration = Duration::from_millis(10);

/// Waits for a machine, then speaks with it.
#[derive(Debug)]
pub struct Console {
    path: PathBuf,
    listener: UnixListener,
    stream: Option<UnixStream>,
    pending: String,
}

impl Console {
    /// Before the machine starts.
    pub fn listen(path: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { path: path.to_owned(), listener, stream: None, pending: String::new() })
    }

    /// Returns once the guest obeys.
    pub fn boot(&mut self, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        while self.stream.is_none() {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    self.stream = Some(stream);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.check(deadline, "nothing connected")?;
                    std::thread::sleep(POLL);
                }
                Err(error) => return Err(error),
            }
        }
        self.until(READY, deadline).map(drop)
    }

    /// Runs a line of the shell; its output, or an error if it fails.
    pub fn run(&mut self, line: &str, patience: Duration) -> io::Result<String> {
        self.begin(line)?;
        self.finish(patience)
    }

    /// Does not wait for the end of the command: [`Self::finish`] does.
    pub fn begin(&mut self, line: &str) -> io::Result<()> {
        let stream = self.stream.as_mut().ok_or_else(|| io::Error::other("the machine has not booted"))?;
        writeln!(stream, "{line}")
    }

    pub fn finish(&mut self, patience: Duration) -> io::Result<String> {
        let deadline = Instant::now() + patience;
        let output = self.until(DONE, deadline)?;
        let code = self.until("\n", deadline)?;
        if code.trim() == "0" { Ok(output) } else { Err(io::Error::other(format!("code {code}: {output}"))) }
    }

    /// What came before `end`.
    fn until(&mut self, end: &str, deadline: Instant) -> io::Result<String> {
        loop {
            if let Some(at) = self.pending.find(end) {
                let rest = self.pending.split_off(at + end.len());
                let mut before = std::mem::replace(&mut self.pending, rest);
                before.truncate(at);
                return Ok(before);
            }
            self.check(deadline, &format!("no {end:?} came"))?;
            self.read(deadline)?;
        }
    }

    fn read(&mut self, deadline: Instant) -> io::Result<()> {
        let stream = self.stream.as_mut().ok_or_else(|| io::Error::other("the machine has not booted"))?;
        let left = deadline.saturating_duration_since(Instant::now()).max(POLL);
        stream.set_read_timeout(Some(left))?;
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes) {
            Ok(0) => Err(io::Error::other(format!("the machine ended; it had said {:?}", self.pending))),
            Ok(count) if self.pending.len() + count > OUTPUT_BYTES => Err(io::Error::other("too much output")),
            Ok(count) => {
                self.pending.push_str(&String::from_utf8_lossy(&bytes[..count]).replace('\r', ""));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn check(&self, deadline: Instant, what: &str) -> io::Result<()> {
        if Instant::now() < deadline {
            return Ok(());
        }
        let said = format!("{what} on {} in time; there was {:?}", self.path.display(), self.pending);
        Err(io::Error::new(io::ErrorKind::TimedOut, said))
    }
}
