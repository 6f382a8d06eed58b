//! Under pressure and at the end: a full queue, deadlines, clients that leave, slow ones, panics, draining.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    time::{Duration, Instant},
};

use sorank::{
    engine::{Admitted, Answer},
    server::{Options, batcher::Compute},
};

use super::{Server, post};

/// Answers by the numbers of tokens.
fn stand_in(rows: &[Admitted]) -> Vec<Answer> {
    let answer = |row: &Admitted| Answer::Embedding(vec![row.encoded.len() as f32]);
    rows.iter().map(answer).collect()
}

/// A computation that waits for a word before each batch, and how many rows have run.
fn gated() -> (Compute, mpsc::Sender<()>, Arc<AtomicUsize>) {
    let (open, gate) = mpsc::channel();
    let gate = Mutex::new(gate);
    let ran = Arc::new(AtomicUsize::new(0));
    let counted = ran.clone();
    let compute = move |rows: &[Admitted]| {
        let _ = gate.lock().unwrap().recv(); // a closed gate is an open one
        counted.fetch_add(rows.len(), SeqCst);
        Ok(stand_in(rows))
    };
    (Arc::new(compute), open, ran)
}

fn ask(url: &str, headers: &[(&str, &str)]) -> super::Got {
    post(
        url,
        "/embed",
        r#"{"inputs": "x", "normalize": false}"#,
        headers,
    )
}

/// Waits until `done`, and fails when it takes too long.
fn until(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "it does not happen"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn waiting(server: &Server) -> String {
    let metrics = server.get("/metrics").text;
    let line = metrics.lines().find(|l| l.starts_with("te_queue_size "));
    line.unwrap_or_default().to_owned()
}

#[test]
fn a_full_queue_is_429_and_says_when_to_come_again() {
    let (compute, open, _) = gated();
    let options = Options {
        queue: 5,
        max_batch_rows: 1, // or the first batch takes two rows that came together
        ..Options::default()
    };
    let server = Server::computing(options, compute);
    std::thread::scope(|scope| {
        // One row runs, four wait: what one task may hold of a queue of five.
        let asked: Vec<_> = (0..5)
            .map(|n| {
                let handle = scope.spawn(|| ask(&server.url, &[]).status);
                let size = format!("te_queue_size {n}");
                until(|| waiting(&server) == size);
                handle
            })
            .collect();
        let refused = ask(&server.url, &[]);
        assert_eq!((refused.status, refused.header("retry-after")), (429, "1"));
        assert_eq!(refused.json()["error_type"], "Overloaded");
        drop(open);
        for handle in asked {
            assert_eq!(handle.join().unwrap(), 200);
        }
    });
    assert!(
        server
            .get("/metrics")
            .text
            .contains("te_request_failure{err=\"overloaded\"} 1")
    );
}

#[test]
fn a_request_past_its_deadline_is_given_up_and_never_run() {
    let (compute, open, ran) = gated();
    let server = Server::computing(Options::default(), compute);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| ask(&server.url, &[]).status);
        until(|| {
            server
                .get("/metrics")
                .text
                .contains("sorank_requests_in_flight 2")
        });
        std::thread::sleep(Duration::from_millis(50)); // it is in its batch now
        let late = ask(&server.url, &[("x-request-timeout-ms", "30")]);
        assert_eq!(
            (late.status, late.json()["code"].as_str()),
            (504, Some("deadline_exceeded"))
        );
        drop(open);
        assert_eq!(first.join().unwrap(), 200);
    });
    assert_eq!(ask(&server.url, &[]).status, 200);
    assert_eq!(ran.load(SeqCst), 2, "the late one was not run");
}

#[test]
fn the_row_of_a_client_that_left_is_not_run() {
    let (compute, open, ran) = gated();
    let server = Server::computing(Options::default(), compute);
    let address = server.url.trim_start_matches("http://").to_owned();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| ask(&server.url, &[]).status);
        until(|| {
            server
                .get("/metrics")
                .text
                .contains("sorank_requests_in_flight 2")
        });
        std::thread::sleep(Duration::from_millis(50));
        let mut leaver = TcpStream::connect(&address).unwrap();
        let body = r#"{"inputs": "x"}"#;
        let head = "POST /embed HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
        write!(leaver, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        until(|| waiting(&server) == "te_queue_size 1");
        drop(leaver);
        until(|| {
            server
                .get("/metrics")
                .text
                .contains("sorank_requests_in_flight 2")
        });
        drop(open);
        assert_eq!(first.join().unwrap(), 200);
    });
    assert_eq!(ask(&server.url, &[]).status, 200);
    assert_eq!(ran.load(SeqCst), 2, "the first and the last");
}

#[test]
fn a_panic_fails_its_batch_and_nothing_else() {
    let calls = AtomicUsize::new(0);
    let compute = move |rows: &[Admitted]| {
        assert!(calls.fetch_add(1, SeqCst) > 0, "the first batch fails");
        Ok(stand_in(rows))
    };
    let server = Server::computing(Options::default(), Arc::new(compute));
    let failed = ask(&server.url, &[]);
    assert_eq!(
        (failed.status, failed.json()["error_type"].as_str()),
        (500, Some("Backend"))
    );
    assert_eq!(ask(&server.url, &[]).status, 200);
    assert!(
        server
            .get("/metrics")
            .text
            .contains("sorank_batch_panics 1")
    );
}

#[test]
fn draining_finishes_what_is_under_way_and_takes_nothing_new() {
    let (compute, open, _) = gated();
    let mut server = Server::computing(Options::default(), compute);
    let url = server.url.clone();
    let under_way = std::thread::spawn(move || ask(&url, &[]).status);
    until(|| {
        server
            .get("/metrics")
            .text
            .contains("sorank_requests_in_flight 2")
    });
    std::thread::sleep(Duration::from_millis(50));
    server.state.drain();
    let probe = server.get("/health");
    assert_eq!(
        (probe.status, probe.json()["error_type"].as_str()),
        (503, Some("Unhealthy"))
    );
    assert_eq!(ask(&server.url, &[]).status, 503);
    let opener = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(open);
    });
    assert!(server.stop(), "all was done in time");
    opener.join().unwrap();
    assert_eq!(under_way.join().unwrap(), 200);
}

#[test]
fn a_client_that_sends_its_headers_too_slowly_is_cut_off() {
    let options = Options {
        read_timeout: Duration::from_millis(200),
        ..Options::default()
    };
    let server = Server::start(options);
    let address = server.url.trim_start_matches("http://");
    let mut slow = TcpStream::connect(address).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    slow.write_all(b"POST /embed HTTP/1.1\r\nhost:").unwrap();
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).expect("the server closes");
    let mut slow = TcpStream::connect(address).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let head = "POST /embed HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    write!(slow, "{head}content-length: 100\r\n\r\n{{").unwrap();
    let mut answer = [0; 64];
    let n = slow.read(&mut answer).expect("the server answers");
    assert!(
        answer[..n].starts_with(b"HTTP/1.1 4"),
        "{}",
        String::from_utf8_lossy(&answer[..n])
    );
}

#[test]
fn a_base_that_is_cut_under_the_server_ends_in_503() {
    let dir = tempfile::tempdir().unwrap();
    let from = super::adapters_dir().join("../base");
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(from.join(file), dir.path().join(file)).unwrap();
    }
    let engine = crate::fixtures::engine(dir.path(), 2048);
    let server = Server::with(sorank::server::State::new(engine, Options::default()), &[]);
    assert_eq!(ask(&server.url, &[]).status, 200);
    let weights = dir.path().join("model.safetensors");
    let file = std::fs::OpenOptions::new()
        .append(true)
        .open(weights)
        .unwrap();
    file.set_len(file.metadata().unwrap().len() + 1).unwrap(); // longer: a map that is cut would end the test
    assert_eq!(ask(&server.url, &[]).status, 503);
    assert_eq!(server.get("/health").status, 503);
}
