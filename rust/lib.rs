//! The Rust core of agentdistill.

pub mod observation;
