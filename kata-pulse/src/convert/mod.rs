//! Raw samples → cAdvisor's words. No IO, no clock: time comes in with the sample.

mod guest;
mod history;
mod quirks;
mod raw;
mod raw_table;
mod task;
mod unit;

pub use guest::{Converted, Moment, convert};
pub use history::{ConvertDropped, GuestHistory};
pub use quirks::{KnownDefect, known_defects};
pub use raw::{RawPage, parse_raw};
pub use task::{ContainerHistory, TaskContext, convert_task};
