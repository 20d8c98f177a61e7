//! A [`Bm25Index`] over HTTP, in the form of Search-R1's retrieval server, so that what was written for that one can use
//! this one: `POST /retrieve` with `{"queries": [...], "topk": 3, "return_scores": true}` is answered by
//! `{"result": [[{"document": {"id", "contents"}, "score"}, ...], ...]}`, a list for each query; without
//! `return_scores` the documents stand alone. `contents` is `"Title"\ntext`. `GET /health` says what is served.
//!
//! Errors are FastAPI's, `{"detail": ...}`: 422 for a request that makes no sense, 413 for one that is too large.
//!
//! Not here: encryption, and any check of who asks. It listens where it is told to, and to whoever comes there.

use std::convert::Infallible;
use std::fmt::Display;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use crate::error::{AtPath, Error, Result};
use crate::retrieval::{Bm25Index, Passage};

/// Bytes of a request.
const LONGEST_REQUEST: usize = 16 << 20;
/// Passages of an answer: queries times `topk`.
const MOST_PASSAGES: usize = 100_000;
/// Connections at once; further ones wait.
const MOST_CONNECTIONS: usize = 1_000;
/// Until a request that has begun must be there.
const PATIENCE: Duration = Duration::from_secs(30);
/// For requests under way when it is told to stop.
const GRACE: Duration = Duration::from_secs(10);
/// Queries that a thread takes together.
const AT_A_TIME: usize = 8;
/// Passages for a query that does not say how many, as in Search-R1.
const TOP_K: usize = 3;

/// A server at work, on threads of its own. Dropped, it stops as by [`stop`](Self::stop).
pub struct RetrievalServer {
    address: SocketAddr,
    running: Option<(oneshot::Sender<()>, oneshot::Receiver<()>, Runtime)>,
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
        Ok(Self { address, running: Some((stop, end, runtime)) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests, and waits for those under way, some seconds at most.
    pub fn stop(&mut self) {
        if let Some((stop, end, runtime)) = self.running.take() {
            let _ = stop.send(());
            let _ = end.blocking_recv();
            runtime.shutdown_background();
        }
    }
}

impl Drop for RetrievalServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Takes connections until it is told to stop, then waits for those there are.
async fn accept(listener: tokio::net::TcpListener, index: Arc<Bm25Index>, mut stopping: oneshot::Receiver<()>) {
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
        let index = index.clone();
        let service = service_fn(move |request| answer(index.clone(), request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(stream), service);
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

async fn answer(index: Arc<Bm25Index>, request: Request<Incoming>) -> std::result::Result<Answer, Infallible> {
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
    if path == "/health" {
        let metadata = index.metadata();
        let health = json!({"status": "ok", "documents": metadata.documents, "language": metadata.language});
        return Ok(respond(StatusCode::OK, health.to_string().into()));
    }
    let body = match timeout(PATIENCE, Limited::new(request.into_body(), LONGEST_REQUEST).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let limit = format_args!("a request is at most {LONGEST_REQUEST} bytes");
            return Ok(refusal(StatusCode::PAYLOAD_TOO_LARGE, limit));
        }
        Ok(Err(error)) => return Ok(refusal(StatusCode::BAD_REQUEST, error)),
        Err(_) => return Ok(refusal(StatusCode::REQUEST_TIMEOUT, "the request took too long to arrive")),
    };
    Ok(retrieve(index, &body).await)
}

async fn retrieve(index: Arc<Bm25Index>, body: &[u8]) -> Answer {
    let Wanted { queries, topk, return_scores } = match serde_json::from_slice(body) {
        Ok(wanted) => wanted,
        Err(error) => return refusal(StatusCode::UNPROCESSABLE_ENTITY, error),
    };
    let k = topk.filter(|&k| k > 0).unwrap_or(TOP_K); // 0 means that too in Search-R1
    if queries.len().saturating_mul(k) > MOST_PASSAGES {
        let limit = format_args!("an answer is at most {MOST_PASSAGES} passages: queries times topk");
        return refusal(StatusCode::PAYLOAD_TOO_LARGE, limit);
    }
    match search(index, queries, k).await {
        Ok(passages) => respond(StatusCode::OK, result(&passages, return_scores)),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

/// Searches for some queries at a time, on all cores, in the order in which requests came. By `search_batch`, a request
/// would wait for many that came later: a thread that waits for its part of one batch begins with another.
async fn search(index: Arc<Bm25Index>, mut queries: Vec<String>, k: usize) -> Result<Vec<Vec<Passage>>> {
    let search = move |index: &Bm25Index, queries: &[String]| -> Result<Vec<Vec<Passage>>> {
        queries.iter().map(|query| index.search(query, k)).collect()
    };
    if queries.len() == 1 {
        return search(&index, &queries); // quicker than a change of threads
    }
    let mut parts = Vec::with_capacity(queries.len().div_ceil(AT_A_TIME));
    while !queries.is_empty() {
        let rest = queries.split_off(queries.len().min(AT_A_TIME));
        let (index, part) = (index.clone(), std::mem::replace(&mut queries, rest));
        let (done, found) = oneshot::channel();
        rayon::spawn(move || drop(done.send(search(&index, &part)))); // nobody waits for it if the client has left
        parts.push(found);
    }
    let mut found = Vec::new();
    for part in parts {
        found.extend(part.await.expect("a search ends")?);
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

fn result(found: &[Vec<Passage>], return_scores: bool) -> Bytes {
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
    struct Found<T> {
        result: Vec<Vec<T>>,
    }
    fn to_json<'a, T: Serialize>(found: &'a [Vec<Passage>], of: impl Fn(&'a Passage) -> T) -> Bytes {
        let result = found.iter().map(|passages| passages.iter().map(&of).collect()).collect();
        serde_json::to_vec(&Found { result }).expect("it is JSON").into()
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
