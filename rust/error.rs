//! The error type of the core, with one variant for each boundary that an error can cross.
//!
//! A mistake of the model or of its code is never an error. It is a `ParseFailure` or an `Observation`.

use std::any::Any;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An invalid argument. `ValueError` in Python.
    #[error("{0}")]
    Argument(String),
    /// A failed file operation. `OSError` in Python.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// An index that cannot be built, opened or read. `RetrievalError` in Python.
    #[error("{place}{message}")]
    Retrieval { place: Place, message: String },
    /// A failure of the sandbox itself, never of the code in it. `SandboxError` in Python.
    #[error("{0}")]
    Sandbox(String),
    /// Trajectories that cannot be read or written. `TrajectoryError` in Python.
    #[error("{place}{message}")]
    Trajectory { place: Place, message: String },
}

impl Error {
    pub(crate) fn retrieval(place: impl Into<Place>, message: impl Into<String>) -> Self {
        Self::Retrieval { place: place.into(), message: message.into() }
    }

    pub(crate) fn trajectory(place: impl Into<Place>, message: impl Into<String>) -> Self {
        Self::Trajectory { place: place.into(), message: message.into() }
    }
}

/// Returns the message of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown")
}

/// Attaches a path to an [`io::Error`], which carries none.
pub(crate) trait AtPath<T> {
    fn at(self, path: &Path) -> Result<T>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { path: path.to_owned(), source })
    }
}

/// The place where an error occurred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Nowhere,
    File(PathBuf),
    /// Line numbers start at 1.
    Line(PathBuf, u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => Ok(()),
            Self::File(path) => write!(f, "{}: ", path.display()),
            Self::Line(path, line) => write!(f, "{}:{line}: ", path.display()),
        }
    }
}

impl From<&Path> for Place {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

impl From<(&Path, u64)> for Place {
    fn from((path, line): (&Path, u64)) -> Self {
        Self::Line(path.to_owned(), line)
    }
}
