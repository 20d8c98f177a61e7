//! A [`Bm25Index`] over HTTP, in the form of Search-R1's retrieval server, so that what was written for that one can use
//! this one: `POST /retrieve` with `{"queries": [...], "topk": 3, "return_scores": true}` is answered by
//! `{"result": [[{"document": {"id", "contents"}, "score"}, ...], ...]}`, a list for each query; without
//! `return_scores` the documents stand alone. `contents` is `"Title"\ntext`. `GET /health` says what is served.
//!
//! Errors are FastAPI's, `{"detail": ...}`: 422 for a request that makes no sense, 413 for one that is too large, 503 when
//! the requests and answers of all clients together take too much memory. Web pages are refused (403): a request with an
//! `Origin`, or, where the server listens on the loopback interface, with another `Host` than this machine.
//!
//! Connections are served by threads of the server's own; queries are searched for in the process's pool, so that no query
//! delays `/health`.
//!
//! Not here: encryption, and any check of who asks. Every client that can reach the address can search.

use std::convert::Infallible;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, ORIGIN};
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use self::write_timeout::WriteTimeout;
use crate::error::{AtPath, Error, Result};
use crate::retrieval::{Bm25Index, Passage};
use crate::threads;

mod write_timeout;

/// Bytes of a request.
const LONGEST_REQUEST: usize = 16 << 20;
/// Passages of an answer: queries times `topk`.
const MOST_PASSAGES: usize = 100_000;
/// Bytes of the passages of an answer.
const LONGEST_ANSWER: u64 = 32 << 20;
/// KiB of all requests and answers together.
const MEMORY: usize = 256 << 10;
/// Bytes of a request's headers.
const LONGEST_HEAD: usize = 64 << 10;
/// Connections at once; further ones wait.
const MOST_CONNECTIONS: usize = 1_000;
/// Until a request that has begun must be there.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Until the client must have taken an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// For requests under way when it is told to stop.
const GRACE: Duration = Duration::from_secs(10);
/// Queries that a thread takes together.
const AT_A_TIME: usize = 8;
/// Passages for a query that does not say how many, as in Search-R1.
const TOP_K: usize = 3;

/// A server at work, on threads of its own. Dropped, it stops as by [`stop`](Self::stop), but nobody waits for it.
pub struct RetrievalServer {
    address: SocketAddr,
    running: Option<Running>,
}

struct Running {
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
    runtime: Runtime,
    /// The process that has its threads: a forked child has none of them.
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
    /// Serves `index` at `host` and `port`; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] for a host that is none; [`Error::Io`] when nobody may listen there, or somebody does.
    pub fn start(index: Arc<Bm25Index>, host: &str, port: u16) -> Result<Self> {
        let name = format!("{host}:{port}");
        let at = |error| std::result::Result::<(), _>::Err(error).at(Path::new(&name)).unwrap_err();
        let no_host = |error| Error::Argument(format!("{host} is no address to listen at: {error}"));
        let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(no_host)?.collect();
        let listener = TcpListener::bind(&*addresses).map_err(at)?;
        listener.set_nonblocking(true).map_err(at)?;
        let address = listener.local_addr().map_err(at)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(at)?;
        let listener = runtime.block_on(async { tokio::net::TcpListener::from_std(listener) }).map_err(at)?;
        let (stop, stopping) = oneshot::channel();
        let (ended, end) = oneshot::channel();
        runtime.spawn(async move {
            accept(listener, index, stopping).await;
            let _ = ended.send(());
        });
        let process = std::process::id();
        Ok(Self { address, running: Some(Running { stop, ended: end, runtime, process }) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests, and waits for those under way, some seconds at most.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

impl Drop for RetrievalServer {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = thread::Builder::new().spawn(move || running.stop()); // whoever drops it may hold the GIL
        }
    }
}

/// Takes connections until it is told to stop, then waits for those there are.
async fn accept(listener: tokio::net::TcpListener, index: Arc<Bm25Index>, mut stopping: oneshot::Receiver<()>) {
    let is_loopback = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let service = Arc::new(Service { index, memory: Arc::new(Semaphore::new(MEMORY)), is_loopback });
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
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
            sleep(Duration::from_millis(50)).await; // no descriptors left, perhaps: others will close theirs
            continue;
        };
        let _ = stream.set_nodelay(true);
        let service = service.clone();
        let answers = service_fn(move |request| answer(service.clone(), request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_TIMEOUT)
            .max_buf_size(LONGEST_HEAD)
            .serve_connection(TokioIo::new(WriteTimeout::new(stream, ANSWER_TIMEOUT)), answers);
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            let _ = connection.await; // what went wrong is the client's
            drop(place);
        });
    }
    drop(listener);
    let _ = timeout(GRACE, connections.shutdown()).await;
}

type Answer = Response<Full<Bytes>>;

/// What all connections share.
struct Service {
    index: Arc<Bm25Index>,
    /// A permit for each KiB that may be held.
    memory: Arc<Semaphore>,
    is_loopback: bool,
}

impl Service {
    /// Room for so many bytes, until it is dropped.
    fn reserve(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let permits = u32::try_from(bytes.div_ceil(1 << 10)).ok()?;
        self.memory.clone().try_acquire_many_owned(permits).ok()
    }
}

async fn answer(service: Arc<Service>, request: Request<Incoming>) -> std::result::Result<Answer, Infallible> {
    let (expected, path) = match request.uri().path() {
        "/retrieve" => (Method::POST, "/retrieve"),
        "/health" => (Method::GET, "/health"),
        _ => return Ok(refusal(StatusCode::NOT_FOUND, "there is POST /retrieve and GET /health")),
    };
    if request.method() != expected {
        let mut answer = refusal(StatusCode::METHOD_NOT_ALLOWED, format_args!("{path} is for {expected}"));
        answer.headers_mut().insert(ALLOW, HeaderValue::from_str(expected.as_str()).expect("a method is a value"));
        return Ok(answer);
    }
    if request.headers().contains_key(ORIGIN) || service.is_loopback && !names_this_machine(request.headers()) {
        return Ok(refusal(
            StatusCode::FORBIDDEN,
            "web pages may not use this server; its Host is an address of this machine",
        ));
    }
    if path == "/health" {
        let metadata = service.index.metadata();
        let health = json!({"status": "ok", "documents": metadata.documents, "language": metadata.language});
        return Ok(respond(StatusCode::OK, health.to_string().into()));
    }
    if request.headers().get(CONTENT_TYPE).is_some_and(|content| !is_json(content)) {
        return Ok(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the Content-Type of a request is application/json"));
    }
    let body = timeout(REQUEST_TIMEOUT, read_body(&service, request.into_body())).await;
    let timed_out = || Err((StatusCode::REQUEST_TIMEOUT, "the request took too long to arrive".to_owned()));
    Ok(match body.unwrap_or_else(|_| timed_out()) {
        Ok((body, _room)) => retrieve(&service, &body).await.unwrap_or_else(|(status, detail)| refusal(status, detail)),
        Err((status, detail)) => refusal(status, detail),
    })
}

/// Whether the Host is a name or an address of the loopback interface, or there is none, as before HTTP/1.1. A page can send
/// requests here under its own name, if its owner lets that name lead here.
fn names_this_machine(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return !headers.contains_key(HOST) };
    let Ok(authority) = Authority::try_from(host.as_bytes()) else { return false };
    let name =
        authority.host().trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
    let is_loopback = name.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    !authority.as_str().contains('@') && (is_loopback || name == "localhost" || name.ends_with(".localhost"))
}

fn is_json(content: &HeaderValue) -> bool {
    let kind = content.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/json")
}

/// Why a request is not answered.
type Refused = (StatusCode, String);

fn no_room() -> Refused {
    (StatusCode::SERVICE_UNAVAILABLE, "requests and answers take too much memory at the moment; ask again".to_owned())
}

/// The body, and the room that it takes.
async fn read_body(
    service: &Service,
    mut body: Incoming,
) -> std::result::Result<(Vec<u8>, Vec<OwnedSemaphorePermit>), Refused> {
    let (mut bytes, mut room) = (Vec::new(), Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > LONGEST_REQUEST {
            return Err((StatusCode::PAYLOAD_TOO_LARGE, format!("a request is at most {LONGEST_REQUEST} bytes")));
        }
        room.push(service.reserve(data.len() as u64).ok_or_else(no_room)?);
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, room))
}

async fn retrieve(service: &Arc<Service>, body: &[u8]) -> std::result::Result<Answer, Refused> {
    let wanted = serde_json::from_slice(body).map_err(|error| (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))?;
    let Wanted { queries, topk, return_scores } = wanted;
    let k = topk.filter(|&k| k > 0).unwrap_or(TOP_K); // 0 means that too in Search-R1
    if queries.len().saturating_mul(k) > MOST_PASSAGES {
        let limit = format!("an answer is at most {MOST_PASSAGES} passages: queries times topk");
        return Err((StatusCode::PAYLOAD_TOO_LARGE, limit));
    }
    let found = search(service, queries, k).await?;
    let json = result(&found.passages, return_scores);
    // The room is free again when the client has taken the answer.
    Ok(respond(StatusCode::OK, Bytes::from_owner(Held { json, _room: found.room })))
}

/// What some queries found, and the room that it takes.
#[derive(Default)]
struct Found {
    passages: Vec<Vec<Passage>>,
    room: Vec<OwnedSemaphorePermit>,
}

struct Held {
    json: Vec<u8>,
    _room: Vec<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.json
    }
}

/// Searches for some queries at a time, on all cores, in the order in which requests came. By `search_batch`, a request
/// would wait for many that came later: a thread that waits for its part of one batch begins with another.
async fn search(service: &Arc<Service>, mut queries: Vec<String>, k: usize) -> std::result::Result<Found, Refused> {
    let answer_bytes = Arc::new(AtomicU64::new(0));
    let mut parts = Vec::with_capacity(queries.len().div_ceil(AT_A_TIME));
    while !queries.is_empty() {
        let rest = queries.split_off(queries.len().min(AT_A_TIME));
        let part = std::mem::replace(&mut queries, rest);
        let (service, answer_bytes) = (service.clone(), answer_bytes.clone());
        let (done, found) = oneshot::channel();
        threads::spawn(move || {
            if !done.is_closed() {
                let _ = done.send(search_part(&service, &part, k, &answer_bytes));
            }
        });
        parts.push(found);
    }
    let mut all = Found::default();
    for part in parts {
        let lost = |_| (StatusCode::INTERNAL_SERVER_ERROR, "the search failed".to_owned());
        let part = part.await.map_err(lost)??;
        all.passages.extend(part.passages);
        all.room.extend(part.room);
    }
    Ok(all)
}

fn search_part(
    service: &Service,
    queries: &[String],
    k: usize,
    answer_bytes: &AtomicU64,
) -> std::result::Result<Found, Refused> {
    let mut found = Found::default();
    for query in queries {
        let mut refused = None;
        let accept = |bytes| {
            if answer_bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > LONGEST_ANSWER {
                let limit = format!("the passages of an answer are at most {LONGEST_ANSWER} bytes; ask for fewer");
                refused = Some((StatusCode::PAYLOAD_TOO_LARGE, limit));
            } else if let Some(room) = service.reserve(bytes) {
                found.room.push(room);
            } else {
                refused = Some(no_room());
            }
            refused.is_none()
        };
        let passages = service.index.search_if(query, k, accept);
        let passages = passages.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        found.passages.push(passages.ok_or_else(|| refused.unwrap_or_else(no_room))?);
    }
    Ok(found)
}

#[derive(Deserialize)]
struct Wanted {
    queries: Vec<String>,
    topk: Option<usize>,
    #[serde(default)]
    return_scores: bool,
}

fn result(found: &[Vec<Passage>], return_scores: bool) -> Vec<u8> {
    #[derive(Serialize)]
    struct Document<'a> {
        id: &'a str,
        #[serde(serialize_with = "contents")]
        contents: &'a Passage,
    }
    #[derive(Serialize)]
    struct Scored<'a> {
        document: Document<'a>,
        score: f32,
    }
    #[derive(Serialize)]
    struct Results<T> {
        result: Vec<Vec<T>>,
    }
    fn to_json<'a, T: Serialize>(found: &'a [Vec<Passage>], of: impl Fn(&'a Passage) -> T) -> Vec<u8> {
        let result = found.iter().map(|passages| passages.iter().map(&of).collect()).collect();
        serde_json::to_vec(&Results { result }).expect("it is JSON")
    }
    fn document(passage: &Passage) -> Document<'_> {
        Document { id: &passage.id, contents: passage }
    }
    if return_scores {
        to_json(found, |passage| Scored { document: document(passage), score: passage.score })
    } else {
        to_json(found, document)
    }
}

fn contents<S: Serializer>(passage: &&Passage, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("\"{}\"\n{}", passage.title, passage.text))
}

fn refusal(status: StatusCode, detail: impl Display) -> Answer {
    respond(status, json!({"detail": detail.to_string()}).to_string().into())
}

fn respond(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
