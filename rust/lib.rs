//! The Rust core of agentdistill.

#[cfg(feature = "python")]
mod bindings;
pub mod error;
pub mod observation;
pub mod sandbox;

pub use error::{Error, Result};
