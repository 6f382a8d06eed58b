//! Traces: a collector hears of each request by its id, over OTLP (HTTP, protobuf).

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::Duration,
};

use serde_json::json;

use super::server::{Server, agent};

/// Longer than a batch of spans waits before it is sent (5 s by default).
const SENT: Duration = Duration::from_secs(30);

/// Reads one request and says that all is well: its first line, and its body.
fn hear(stream: TcpStream) -> Option<(String, Vec<u8>)> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim().to_ascii_lowercase();
        if let Some(n) = line.strip_prefix("content-length:") {
            length = n.trim().parse().ok()?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    reader.into_inner().write_all(answer).ok()?;
    Some((first, body))
}

#[test]
fn a_collector_hears_of_a_request_by_its_id() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (heard, spans) = mpsc::channel();
    // It ends with the test's process: a collector never knows whether more will come.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Some(request) = hear(stream) else {
                continue;
            };
            if heard.send(request).is_err() {
                return;
            }
        }
    });
    let endpoint = format!("http://{address}/v1/traces");
    // Its log is at the level error, which is none of the traces' business.
    let server = Server::start(&["--otlp-endpoint", &endpoint]);
    let sent = agent()
        .post(format!("{}/predict", server.url))
        .header("content-type", "application/json")
        .header("x-request-id", "a-request-of-its-own")
        .send(
            json!({"inputs": "x", "adapter": "sentiment"})
                .to_string()
                .as_bytes(),
        );
    assert_eq!(sent.expect("an answer").status(), 200);
    loop {
        let (first, body) = spans.recv_timeout(SENT).expect("the span comes");
        assert!(first.starts_with("POST /v1/traces "), "{first}");
        let text = String::from_utf8_lossy(&body);
        if text.contains("a-request-of-its-own") {
            assert!(
                text.contains("/predict") && text.contains("sorank"),
                "{text}"
            );
            return;
        }
    }
}
