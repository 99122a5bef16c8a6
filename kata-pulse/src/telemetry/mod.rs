//! The agent about itself: its log and its own `kata_pulse_*` families.
//! In: small method calls from every stage. Out: log lines, and [`OwnFamily`] blocks that the page merges by name.

mod exposition;
pub mod log;
mod own;
pub mod process;
mod table;

pub use exposition::OwnFamily;
pub use own::Own;
pub use table::{OWN_FAMILIES, OwnKind, OwnRow};
