//! CPU time by the kernel's own count, in its ticks.

const CLOCK_TICKS: f64 = 100.0;

/// Whose time a process's `stat` is asked for.
#[derive(Clone, Copy, Debug)]
pub enum CpuOf {
    Itself,
    /// Of all that it has waited for, and what those had waited for.
    Children,
}

impl CpuOf {
    /// Seconds, user and system; `process` is a pid or `self`.
    pub fn read(self, process: &str) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        // Fields 14 to 17 of proc(5); the first after the name is the third.
        let at = if matches!(self, Self::Itself) { 11 } else { 13 };
        let ticks: f64 = fields[at..at + 2].iter().map(|field| field.parse::<f64>().unwrap()).sum();
        ticks / CLOCK_TICKS
    }
}
