//! The Rust core of agentdistill.

pub mod error;
pub mod observation;

pub use error::{Error, Result};
