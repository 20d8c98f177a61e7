//! One test binary, with one module for each module of the core.

mod action;
mod formats;
mod retrieval;
mod sandbox;
mod self_consistency;
mod step_queue;
mod trajectory;
mod vote;
