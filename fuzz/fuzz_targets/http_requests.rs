//! Sends any bytes to the search server. It must answer or hang up, and must still answer other requests afterwards.
#![no_main]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use agentdistill::retrieval::{Bm25Builder, BuildOptions, Passage};
use agentdistill::retrieval_server::RetrievalServer;
use libfuzzer_sys::fuzz_target;

static SERVER: LazyLock<RetrievalServer> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("fuzz-server-{}", std::process::id()));
    let mut builder = Bm25Builder::new(&folder, BuildOptions::default()).unwrap();
    let passage = Passage { id: "1".into(), title: "Paris".into(), text: "the capital of France".into(), score: 0.0 };
    builder.add(passage).unwrap();
    RetrievalServer::start(Arc::new(builder.finish().unwrap()), "127.0.0.1", 0).unwrap()
});

/// Returns the answer. With `hangs_up`, the client closes its sending side, so that the server does not wait for more.
fn answer(address: SocketAddr, request: &[u8], hangs_up: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let _ = stream.write_all(request); // the server may have hung up
    if hangs_up {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fuzz_target!(|request: &[u8]| {
    let address = SERVER.address();
    answer(address, request, true);
    let body = r#"{"queries": ["capital"], "topk": 1}"#;
    let head = format!("POST /retrieve HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n");
    let fine = format!("{head}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let after = answer(address, fine.as_bytes(), false);
    assert!(after.windows(5).any(|part| part == b"Paris"), "{}", after.escape_ascii());
});
