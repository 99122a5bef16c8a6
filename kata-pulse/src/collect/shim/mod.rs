//! The shim's metrics page: whether it may be asked ([`safety`]), asking ([`client`]), understanding ([`parse`]) and, if asked
//! for, keeping it as it is ([`raw`]).

pub mod client;
pub mod parse;
pub mod raw;
pub mod safety;
pub mod types;
