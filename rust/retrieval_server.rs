//! Serves a [`Bm25Index`] over HTTP, with the API of Search-R1's retrieval server, so that its clients work unchanged.
//!
//! `POST /retrieve` with `{"queries": [...], "topk": 3, "return_scores": true}` returns
//! `{"result": [[{"document": {"id", "contents"}, "score"}, ...], ...]}`, one list for each query. Without
//! `return_scores`, a list contains the documents alone. `contents` is `"Title"\ntext`. `GET /health` describes the
//! index. `POST /page` with `{"title": "..."}`, which Search-R1 does not have, returns `{"result": [[...]]}` with the
//! documents that have this title.
//!
//! Errors have FastAPI's form, `{"detail": ...}`: 422 for an invalid request, 413 for a request that is too large, and
//! 503 when the requests and answers of all clients take too much memory. Web pages are refused with 403. A request
//! counts as coming from a page if it has an `Origin`, or if the server listens on the loopback interface and the
//! `Host` is not this machine.
//!
//! The server has its own threads for connections. Searches run in the process's pool, so no search delays `/health`.
//!
//! There is no encryption and no authentication. Every client that can reach the address can search.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use self::service::{Service, answer};
use self::write_timeout::WriteTimeout;
use crate::error::{AtPath, Error, Result};
use crate::retrieval::Bm25Index;

mod service;
mod write_timeout;

/// The maximum size of a request's headers in bytes.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// The maximum number of connections at once. Others wait.
const MAX_CONNECTIONS: usize = 1_000;
/// The time within which a request must arrive once it has started.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The time within which the client must read an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The time that running requests have after a stop.
const GRACE: Duration = Duration::from_secs(10);

/// A running server with its own threads. Dropping it stops it like [`stop`](Self::stop), but without waiting.
pub struct RetrievalServer {
    address: SocketAddr,
    running: Option<Running>,
}

struct Running {
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
    runtime: Runtime,
    /// The process in which the threads run. A forked child has none of them.
    process: u32,
}

impl Running {
    fn stop(self) {
        if self.process == std::process::id() {
            let _ = self.stop.send(());
            let _ = self.ended.blocking_recv();
            self.runtime.shutdown_background();
        } else {
            std::mem::forget(self);
        }
    }
}

impl RetrievalServer {
    /// Serves `index` at `host` and `port`. Port 0 selects a free port.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if `host` is not a valid address; [`Error::Io`] if the port is in use or may not be used.
    pub fn start(index: Arc<Bm25Index>, host: &str, port: u16) -> Result<Self> {
        Self::start_with(index, host, port, ANSWER_TIMEOUT)
    }

    fn start_with(index: Arc<Bm25Index>, host: &str, port: u16, answer_timeout: Duration) -> Result<Self> {
        let name = format!("{host}:{port}");
        let at = |error| std::result::Result::<(), _>::Err(error).at(Path::new(&name)).unwrap_err();
        let no_host = |error| Error::Argument(format!("{host} is not an address to listen at: {error}"));
        let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(no_host)?.collect();
        let listener = TcpListener::bind(&*addresses).map_err(at)?;
        listener.set_nonblocking(true).map_err(at)?;
        let address = listener.local_addr().map_err(at)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(at)?;
        let listener = runtime.block_on(async { tokio::net::TcpListener::from_std(listener) }).map_err(at)?;
        let (stop, stopping) = oneshot::channel();
        let (ended, end) = oneshot::channel();
        runtime.spawn(async move {
            accept(listener, index, answer_timeout, stopping).await;
            let _ = ended.send(());
        });
        let process = std::process::id();
        Ok(Self { address, running: Some(Running { stop, ended: end, runtime, process }) })
    }

    /// Returns the address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting requests, and waits at most some seconds for the running ones.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

impl Drop for RetrievalServer {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = thread::Builder::new().spawn(move || running.stop()); // the thread that drops it may hold the GIL
        }
    }
}

/// Accepts connections until the server is stopped, and then waits for the open ones.
async fn accept(
    listener: tokio::net::TcpListener,
    index: Arc<Bm25Index>,
    answer_timeout: Duration,
    mut stopping: oneshot::Receiver<()>,
) {
    let is_loopback = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let service = Arc::new(Service::new(index, is_loopback));
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = GracefulShutdown::new();
    loop {
        let next = async {
            let place = room.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            next = next => next,
            _ = &mut stopping => break,
        };
        let Ok((stream, _)) = accepted else {
            sleep(Duration::from_millis(50)).await; // perhaps out of file descriptors; other connections will free some
            continue;
        };
        let _ = stream.set_nodelay(true);
        let service = service.clone();
        let answers = service_fn(move |request| answer(service.clone(), request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_TIMEOUT)
            .max_buf_size(MAX_HEADER_BYTES)
            .serve_connection(TokioIo::new(WriteTimeout::new(stream, answer_timeout)), answers);
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            let _ = connection.await; // a failure concerns only this client
            drop(place);
        });
    }
    drop(listener);
    let _ = timeout(GRACE, connections.shutdown()).await;
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Instant;

    use super::*;
    use crate::retrieval::{Bm25Builder, BuildOptions, Passage};

    #[test]
    fn clients_that_do_not_read_lose_their_connections_and_memory() {
        let folder = tempfile::tempdir().unwrap();
        let mut builder = Bm25Builder::new(&folder.path().join("index"), BuildOptions::default()).unwrap();
        let text = format!("alpha {}", "lorem ipsum ".repeat(512 << 10));
        for number in 0..4 {
            let passage = Passage { id: number.to_string(), title: String::new(), text: text.clone(), score: 0.0 };
            builder.add(passage).unwrap();
        }
        let index = Arc::new(builder.finish().unwrap());
        let server = RetrievalServer::start_with(index, "127.0.0.1", 0, Duration::from_secs(1)).unwrap();

        let is_accepted = |stream: &mut TcpStream| {
            let body = r#"{"queries": ["alpha"], "topk": 4}"#;
            let head = "POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
            write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
            let mut status = [0; 12];
            stream.read_exact(&mut status).unwrap();
            assert!(status == *b"HTTP/1.1 200" || status == *b"HTTP/1.1 503", "{}", status.escape_ascii());
            status.ends_with(b"200")
        };
        let connect = || TcpStream::connect(server.address()).unwrap();
        // Together they ask for more than MEMORY, so the last ones may be refused.
        let mut clients: Vec<_> = std::iter::repeat_with(connect).take(11).collect();
        clients.retain_mut(is_accepted);
        for client in &mut clients {
            let started = Instant::now();
            while client.write(b" ").is_ok() {
                assert!(started.elapsed() < Duration::from_secs(60), "the connection is still open");
                thread::sleep(Duration::from_millis(10));
            }
        }
        assert!(is_accepted(&mut connect()));
    }
}
