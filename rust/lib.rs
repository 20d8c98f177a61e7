//! The Rust core of agentdistill: the parts that must be fast, isolated or durable.
//!
//! [`action`] parses a completion, [`sandbox`] runs its code, and [`vote`] finds the majority of the candidates.
//! [`self_consistency`] combines these three into a step of an agent. A [`step_queue`] runs the steps of many episodes
//! in the background. [`retrieval`] searches an index; cells use it through [`search_tool`], and other programs through
//! [`retrieval_server`]. [`trajectory`] stores episodes, and [`formats`] reads and writes the formats of other
//! programs. All of these share the types in [`observation`]. `bindings` exposes the core to Python, and no other
//! module imports it.

pub mod action;
#[cfg(feature = "python")]
mod bindings;
pub mod error;
mod file_lock;
pub mod formats;
mod json;
pub mod observation;
pub mod retrieval;
pub mod retrieval_server;
pub mod sandbox;
pub mod search_tool;
pub mod self_consistency;
pub mod step_queue;
pub mod text_file;
mod threads;
pub mod trajectory;
pub mod vote;

pub use error::{Error, Result};
