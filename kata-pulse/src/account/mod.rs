//! The ledger: what a sandbox costs beyond its workload, what its namespace has used, how it began and ended.
//!
//! In: readings of the host, numbers of guest and containers, what discovery saw. Out: numbers for the page. No IO; time
//! comes in with what is told.

mod cost;
mod end;
mod namespaces;
mod orphans;
mod pod;
mod startup;

pub use cost::{CostBook, Moment, Workload, resident_bytes};
pub use end::{CAUSES, Death, End, EndEvidence, judge};
pub use namespaces::{Contribution, NamespaceBook, TrafficBook};
pub use orphans::{Orphans, count_orphans};
pub use pod::pod_stats;
pub use startup::{Stage, Startup};
