//! kata-pulse: metrics of Kata Containers sandboxes, from the host.
//!
//! The data path, in the order in which a reader meets the modules:
//! [`discover`] → [`registry`] → [`collect`] → [`convert`] → [`render`] → [`serve`].

pub mod agent;
pub mod config;
pub mod kernel;
pub mod sandbox;
pub mod tasks;
pub mod telemetry;
pub mod version;

pub mod discover;
pub mod registry;

pub mod collect;
pub mod model;

pub mod account;
pub mod convert;
pub mod render;

pub mod scrape;
pub mod store;

pub mod serve;
