//! What do the sources say?
pub mod pace;
pub mod schedule;
