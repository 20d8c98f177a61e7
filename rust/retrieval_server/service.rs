//! Answers the requests of [`RetrievalServer`](super::RetrievalServer): checks and reads them, and searches.

use std::convert::Infallible;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, ORIGIN};
use hyper::http::uri::Authority;
use hyper::{Method, Request, Response, StatusCode};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use super::REQUEST_TIMEOUT;
use crate::retrieval::{Bm25Index, MAX_PAGE_BYTES, Passage};
use crate::threads;

/// The maximum size of a request in bytes.
const MAX_REQUEST_BYTES: usize = 16 << 20;
/// The maximum number of passages in an answer: queries times `topk`.
const MAX_PASSAGES: usize = 100_000;
/// The maximum size of an answer's passages in bytes.
const MAX_ANSWER_BYTES: u64 = 32 << 20;
/// The maximum memory for all requests and answers together, in KiB.
const MEMORY: usize = 256 << 10;
/// The number of queries that one job of the thread pool searches.
const QUERIES_PER_JOB: usize = 8;
/// The number of passages for a query that gives no number, as in Search-R1.
const TOP_K: usize = 3;

pub type Answer = Response<Full<Bytes>>;

/// The state that all connections share.
pub struct Service {
    index: Arc<Bm25Index>,
    /// One permit for each KiB that may be in use.
    memory: Arc<Semaphore>,
    /// Whether the server listens on the loopback interface.
    is_loopback: bool,
}

impl Service {
    pub fn new(index: Arc<Bm25Index>, is_loopback: bool) -> Self {
        Self { index, memory: Arc::new(Semaphore::new(MEMORY)), is_loopback }
    }

    /// Reserves memory for this number of bytes, until the permit is dropped.
    fn reserve(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let permits = u32::try_from(bytes.div_ceil(1 << 10)).ok()?;
        self.memory.clone().try_acquire_many_owned(permits).ok()
    }
}

pub async fn answer(service: Arc<Service>, request: Request<Incoming>) -> std::result::Result<Answer, Infallible> {
    let (expected, path) = match request.uri().path() {
        "/retrieve" => (Method::POST, "/retrieve"),
        "/page" => (Method::POST, "/page"),
        "/health" => (Method::GET, "/health"),
        _ => {
            let endpoints = "POST /retrieve, POST /page or GET /health";
            return Ok(refusal(StatusCode::NOT_FOUND, format_args!("no such endpoint: use {endpoints}")));
        }
    };
    if request.method() != expected {
        let mut answer = refusal(StatusCode::METHOD_NOT_ALLOWED, format_args!("{path} accepts only {expected}"));
        answer.headers_mut().insert(ALLOW, HeaderValue::from_str(expected.as_str()).expect("a method is a value"));
        return Ok(answer);
    }
    if request.headers().contains_key(ORIGIN) || service.is_loopback && !names_this_machine(request.headers()) {
        return Ok(refusal(
            StatusCode::FORBIDDEN,
            "web pages may not use this server, and the Host header must name this machine",
        ));
    }
    if path == "/health" {
        let metadata = service.index.metadata();
        let health = json!({"status": "ok", "documents": metadata.documents, "language": metadata.language});
        return Ok(respond(StatusCode::OK, health.to_string().into()));
    }
    if request.headers().get(CONTENT_TYPE).is_some_and(|content| !is_json(content)) {
        return Ok(refusal(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the Content-Type of a request must be application/json",
        ));
    }
    let body = timeout(REQUEST_TIMEOUT, read_body(&service, request.into_body())).await;
    let timed_out = || Err((StatusCode::REQUEST_TIMEOUT, "the request took too long to arrive".to_owned()));
    let answer = match body.unwrap_or_else(|_| timed_out()) {
        Ok((body, _room)) if path == "/page" => read_page(&service, &body).await,
        Ok((body, _room)) => retrieve(&service, &body).await,
        Err(refused) => Err(refused),
    };
    Ok(answer.unwrap_or_else(|(status, detail)| refusal(status, detail)))
}

/// Returns whether the `Host` is a loopback name or address, or is absent, as before HTTP/1.1. Without this check, a
/// web page could send requests under its own name, if the owner of that name points it at this address.
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

/// The reason for refusing a request.
type Refusal = (StatusCode, String);

fn out_of_memory() -> Refusal {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "requests and answers take too much memory at the moment; try again later".to_owned(),
    )
}

/// Reads the body, and reserves memory for it.
async fn read_body(
    service: &Service,
    mut body: Incoming,
) -> std::result::Result<(Vec<u8>, Vec<OwnedSemaphorePermit>), Refusal> {
    let (mut bytes, mut room) = (Vec::new(), Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > MAX_REQUEST_BYTES {
            return Err((
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the request is larger than {MAX_REQUEST_BYTES} bytes"),
            ));
        }
        room.push(service.reserve(data.len() as u64).ok_or_else(out_of_memory)?);
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, room))
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> std::result::Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))
}

async fn read_page(service: &Arc<Service>, body: &[u8]) -> std::result::Result<Answer, Refusal> {
    let PageRequest { title } = parse(body)?;
    let room = vec![service.reserve(MAX_PAGE_BYTES as u64).ok_or_else(out_of_memory)?];
    let (service, (done, found)) = (service.clone(), oneshot::channel());
    threads::spawn(move || drop(done.send(service.index.page(&title))));
    let page = found.await.map_err(lost)?;
    let page = page.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(answer_with(result(&[page], false), room))
}

async fn retrieve(service: &Arc<Service>, body: &[u8]) -> std::result::Result<Answer, Refusal> {
    let SearchRequest { queries, topk, return_scores } = parse(body)?;
    let k = topk.filter(|&k| k > 0).unwrap_or(TOP_K); // in Search-R1, 0 also selects the default
    if queries.len().saturating_mul(k) > MAX_PASSAGES {
        let limit = format!("queries times topk is more than {MAX_PASSAGES} passages");
        return Err((StatusCode::PAYLOAD_TOO_LARGE, limit));
    }
    let found = search(service, queries, k).await?;
    Ok(answer_with(result(&found.passages, return_scores), found.room))
}

/// Returns an answer whose memory stays reserved until the client has read it.
fn answer_with(json: Vec<u8>, room: Vec<OwnedSemaphorePermit>) -> Answer {
    respond(StatusCode::OK, Bytes::from_owner(ReservedBody { json, _room: room }))
}

fn lost<E>(_: E) -> Refusal {
    (StatusCode::INTERNAL_SERVER_ERROR, "the search failed".to_owned())
}

/// The results of some queries, and the memory reserved for them.
#[derive(Default)]
struct Found {
    passages: Vec<Vec<Passage>>,
    room: Vec<OwnedSemaphorePermit>,
}

struct ReservedBody {
    json: Vec<u8>,
    _room: Vec<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for ReservedBody {
    fn as_ref(&self) -> &[u8] {
        &self.json
    }
}

/// Runs some queries at a time on all cores, in the order in which requests arrived. `search_batch` would make a
/// request wait for many later ones: a thread that waits for its part of one batch starts work on another batch.
async fn search(service: &Arc<Service>, mut queries: Vec<String>, k: usize) -> std::result::Result<Found, Refusal> {
    let answer_bytes = Arc::new(AtomicU64::new(0));
    let mut parts = Vec::with_capacity(queries.len().div_ceil(QUERIES_PER_JOB));
    while !queries.is_empty() {
        let rest = queries.split_off(queries.len().min(QUERIES_PER_JOB));
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
) -> std::result::Result<Found, Refusal> {
    let mut found = Found::default();
    for query in queries {
        let mut refused = None;
        let accept = |bytes| {
            if answer_bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > MAX_ANSWER_BYTES {
                let limit = format!("the passages are larger than {MAX_ANSWER_BYTES} bytes; ask for fewer");
                refused = Some((StatusCode::PAYLOAD_TOO_LARGE, limit));
            } else if let Some(room) = service.reserve(bytes) {
                found.room.push(room);
            } else {
                refused = Some(out_of_memory());
            }
            refused.is_none()
        };
        let passages = service.index.search_if(query, k, accept);
        let passages = passages.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        found.passages.push(passages.ok_or_else(|| refused.unwrap_or_else(out_of_memory))?);
    }
    Ok(found)
}

#[derive(Deserialize)]
struct PageRequest {
    title: String,
}

#[derive(Deserialize)]
struct SearchRequest {
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
