//! The guest's report about a cell, and the ways in which a cell can end without one.

use wasmtime::Trap;
use wasmtime::component::{ComponentType, Lift};

/// See world.wit.
#[derive(Clone, Debug, ComponentType, Lift)]
#[component(record)]
pub struct Report {
    pub kind: ReportKind,
    pub stdout: String,
    pub truncated: u64,
    pub value: Option<String>,
    pub answer: Option<Answer>,
    pub failure: Option<Failure>,
}

impl Report {
    /// The maximum size in bytes of an honest report: four texts of `stdout_chars` characters of at most four bytes
    /// each, and a traceback.
    pub fn max_bytes(stdout_chars: u32) -> usize {
        16 * stdout_chars as usize + (128 << 10)
    }

    pub fn nbytes(&self) -> usize {
        let answer = self.answer.as_ref().map_or(0, |a| a.text.len() + a.json.as_ref().map_or(0, String::len));
        let failure = self.failure.as_ref().map_or(0, |failure| failure.name.len() + failure.traceback.len());
        self.stdout.len() + self.value.as_ref().map_or(0, String::len) + answer + failure
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code)] // made by Lift
pub enum ReportKind {
    #[component(name = "value")]
    Value,
    #[component(name = "final-answer")]
    FinalAnswer,
    #[component(name = "exception")]
    Exception,
    #[component(name = "timeout")]
    Timeout,
    #[component(name = "out-of-memory")]
    OutOfMemory,
    #[component(name = "tool-error")]
    ToolError,
}

#[derive(Clone, Debug, ComponentType, Lift)]
#[component(record)]
pub struct Answer {
    pub text: String,
    pub json: Option<String>,
}

#[derive(Clone, Debug, ComponentType, Lift)]
#[component(record)]
pub struct Failure {
    pub name: String,
    pub traceback: String,
}

/// The reason why a cell ended without a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbnormalEnd {
    /// It was out of time, or was cancelled.
    Stopped,
    /// It recursed too deeply in C code.
    StackOverflow,
    /// The interpreter aborted after it was refused memory.
    OutOfMemory,
    /// The interpreter aborted, or asked for something that it must not have.
    Trap,
}

impl From<wasmtime::Error> for AbnormalEnd {
    fn from(error: wasmtime::Error) -> Self {
        match error.downcast_ref::<Trap>() {
            Some(Trap::StackOverflow) => Self::StackOverflow,
            _ => Self::Trap,
        }
    }
}
