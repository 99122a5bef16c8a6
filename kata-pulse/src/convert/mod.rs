//! Raw samples → cAdvisor's words. No IO, no clock: time comes in with the sample.

mod history;
mod shim;
mod unit;

pub use history::{ConvertDropped, GuestHistory};
pub use shim::{Moment, convert};
