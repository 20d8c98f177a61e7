//! The retrieval server in Python.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;

use super::retrieval::PyBm25Index;
use crate::retrieval_server::RetrievalServer;

/// Serves an index over HTTP with the protocol of Search-R1's server: ``POST /retrieve``, ``GET /health``. It runs on
/// its own threads until ``stop`` or the end of a ``with`` block.
#[pyclass(frozen, name = "RetrievalServer", module = "agentdistill._core")]
pub struct PyRetrievalServer {
    server: Mutex<RetrievalServer>,
    address: SocketAddr,
}

#[pymethods]
impl PyRetrievalServer {
    /// Listen at ``host`` and ``port``; port 0 selects a free port. Raises OSError if that fails.
    #[new]
    #[pyo3(signature = (index, host = "127.0.0.1", port = 8000))]
    fn new(py: Python<'_>, index: &Bound<'_, PyBm25Index>, host: &str, port: u16) -> PyResult<Self> {
        let index = index.get().0.clone();
        let server = py.detach(|| RetrievalServer::start(index, host, port))?;
        Ok(Self { address: server.address(), server: Mutex::new(server) })
    }

    /// ``http://HOST:PORT``, as seen from this machine.
    #[getter]
    fn url(&self) -> String {
        let mut address = self.address;
        match address {
            SocketAddr::V4(v4) if v4.ip().is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            SocketAddr::V6(v6) if v6.ip().is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        format!("http://{address}")
    }

    /// Stop accepting requests, and wait at most 10 s for the running ones.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.server.lock().unwrap_or_else(PoisonError::into_inner).stop());
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, py: Python<'_>, _args: &Bound<'_, pyo3::types::PyTuple>) {
        self.stop(py);
    }
}
