//! The Rust core of agentdistill: what has to be fast, safe or durable.
//!
//! A step of an agent is [`action`] (a completion is read), [`sandbox`] (its code runs), [`vote`] (the candidates'
//! majority), fused in [`self_consistency`]; a [`step_queue`] takes those of many episodes in the background.
//! [`retrieval`] answers its searches through [`search_tool`] (and those of others through [`retrieval_server`]),
//! [`trajectory`] keeps it, and [`formats`] reads and writes what others keep. [`observation`] is what they all speak of.
//! Python sees all of it through `bindings`, which nothing here imports.

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
