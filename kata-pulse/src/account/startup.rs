//! How long a sandbox took to come up, stage by stage. In: when what was reached. Out: each stage once, as time since the
//! sandbox's beginning.

/// Stages in their usual order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    ShimExec,
    VmmExec,
    Socket,
    Guest,
    FirstContainer,
}

impl Stage {
    pub const ALL: [Self; 5] = [Self::ShimExec, Self::VmmExec, Self::Socket, Self::Guest, Self::FirstContainer];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ShimExec => "shim_exec",
            Self::VmmExec => "vmm_exec",
            Self::Socket => "socket",
            Self::Guest => "guest",
            Self::FirstContainer => "first_container",
        }
    }
}

/// A start that took longer was no start: a container that was started anew, a clock that jumped.
const LONGEST_SECONDS: f64 = 3600.0;
/// A zero that is this little later than a stage is a clock of another resolution.
const RESOLUTION_SECONDS: f64 = 0.02;

/// Of one sandbox. All moments are seconds since boot.
#[derive(Debug, Default)]
pub struct Startup {
    reached: [Option<f64>; Stage::ALL.len()],
    told: [bool; Stage::ALL.len()],
}

impl Startup {
    /// The first time counts.
    pub fn reach(&mut self, stage: Stage, at: f64) {
        self.reached[stage as usize].get_or_insert(at);
    }

    pub fn is_missing(&self, stage: Stage) -> bool {
        self.reached[stage as usize].is_none()
    }

    /// When the stage was reached.
    pub fn at(&self, stage: Stage) -> Option<f64> {
        self.reached[stage as usize]
    }

    /// Stages that were reached and not told yet, as seconds since `zero`.
    pub fn tell(&mut self, zero: f64) -> Vec<(Stage, f64)> {
        let mut news = Vec::new();
        for (stage, (reached, told)) in Stage::ALL.into_iter().zip(self.reached.iter().zip(&mut self.told)) {
            let Some(took) = reached.filter(|_| !*told).map(|reached| reached - zero) else { continue };
            *told = true;
            if (-RESOLUTION_SECONDS..LONGEST_SECONDS).contains(&took) {
                news.push((stage, took.max(0.0)));
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_is_told_once_and_the_first_time_counts() {
        let mut startup = Startup::default();
        startup.reach(Stage::ShimExec, 10.5);
        startup.reach(Stage::VmmExec, 11.0);
        startup.reach(Stage::VmmExec, 99.0);
        assert_eq!(startup.tell(10.0), [(Stage::ShimExec, 0.5), (Stage::VmmExec, 1.0)]);
        startup.reach(Stage::FirstContainer, 14.0);
        assert_eq!(startup.tell(10.0), [(Stage::FirstContainer, 4.0)]);
        assert!(startup.is_missing(Stage::Guest) && !startup.is_missing(Stage::VmmExec));
    }

    #[test]
    fn what_was_no_start_is_not_told() {
        let mut startup = Startup::default();
        startup.reach(Stage::ShimExec, 9.99);
        startup.reach(Stage::VmmExec, 5.0);
        startup.reach(Stage::Socket, 9000.0);
        assert_eq!(startup.tell(10.0), [(Stage::ShimExec, 0.0)]);
    }
}
