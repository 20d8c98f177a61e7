//! The Rust core of agentdistill.

#[cfg(feature = "python")]
mod bindings;
pub mod observation;
pub mod sandbox;
