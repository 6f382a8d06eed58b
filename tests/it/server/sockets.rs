//! Clients that send what nobody will read, or without end.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::json;
use sorank::server::Options;

use super::{Server, post};

/// A body that is larger than socket buffers are.
fn large() -> String {
    json!({"inputs": "x".repeat(6 << 20)}).to_string()
}

/// A request refused before its body was read was answered and its connection closed at once: a client that was still
/// sending got a broken pipe instead of the answer, most of the time.
#[test]
fn an_early_refusal_reaches_a_client_that_is_still_sending() {
    let options = Options {
        api_keys: vec!["key".to_owned()],
        ..Options::default()
    };
    let server = Server::start(options);
    let body = large();
    let key = ("authorization", "Bearer key");
    let text = ("content-type", "text/plain");
    for round in 0..50 {
        for (path, headers, want) in [
            ("/embed", &[key][..], 413),
            ("/embed", &[][..], 401),
            ("/nowhere", &[key][..], 404),
            ("/health", &[key][..], 405),
            ("/embed", &[key, text][..], 415),
        ] {
            let got = post(&server.url, path, &body, headers);
            assert_eq!(got.status, want, "{path}, round {round}: {}", got.text);
        }
    }
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
    let longest = Some(Duration::from_secs(20));
    stream.set_read_timeout(longest).unwrap();
    stream.set_write_timeout(longest).unwrap();
    stream
}

/// One that never sent a byte stayed open for ever.
#[test]
fn a_connection_that_nobody_uses_is_closed() {
    let options = Options {
        read_timeout: Duration::from_millis(200),
        ..Options::default()
    };
    let server = Server::start(options);
    for sent in ["", "GET /health HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut stream = connect(&server);
        stream.write_all(sent.as_bytes()).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the server closes");
        assert_eq!(rest.is_empty(), sent.is_empty());
    }
}

#[test]
fn a_body_without_end_is_not_read_for_ever() {
    let server = Server::start(Options::default());
    let mut stream = connect(&server);
    let head = "POST /embed HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                transfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let mut sent = 0;
    while stream.write_all(chunk.as_bytes()).is_ok() {
        sent += 0x10000;
        assert!(sent < 256 << 20, "a body without end was read");
    }
    assert!(
        sent >= 16 << 20,
        "what is somewhat too large is read: {sent}"
    );
}
