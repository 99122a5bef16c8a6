//! The shim's metrics page: whether it may be asked ([`safety`]), asking ([`client`]), understanding ([`parse`]).

pub mod client;
pub mod parse;
pub mod safety;
pub mod types;
