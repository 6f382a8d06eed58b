//! Load over HTTP/1.1 connections that stay open: a closed loop for throughput, an open one for latency.
//!
//! The open loop plans all arrivals beforehand, by a Poisson process with a fixed seed, and counts each latency from the
//! planned arrival: a server that stalls is charged for all who came meanwhile. Requests are written as prepared bytes
//! and of an answer only status and length are read, so that the generator takes little of the machine it shares.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A POST as bytes.
pub(crate) fn request(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// When, after the start, which request is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    at: Duration,
    request: usize,
}

impl Arrival {
    /// Arrivals at `rate` a second for `seconds`.
    pub(crate) fn poisson(rate: f64, seconds: f64, requests: usize, seed: u64) -> Vec<Self> {
        let mut state = seed;
        let mut unit = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let mut at = 0.0;
        let mut all = Vec::new();
        loop {
            at += -(1.0 - unit()).ln() / rate;
            if at >= seconds {
                return all;
            }
            let request = (unit() * requests as f64) as usize;
            all.push(Self {
                at: Duration::from_secs_f64(at),
                request,
            });
        }
    }
}

/// One connection and its read buffer.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address)
            .await
            .expect("the server accepts");
        stream.set_nodelay(true).expect("a socket");
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Sends a request and waits for the whole answer; its body.
    async fn ask(&mut self, request: &[u8]) -> &[u8] {
        self.stream
            .write_all(request)
            .await
            .expect("the server reads");
        self.buffer.clear();
        let (head, length) = loop {
            assert_ne!(
                self.stream
                    .read_buf(&mut self.buffer)
                    .await
                    .expect("an answer"),
                0,
                "the server hung up"
            );
            if let Some(found) = head(&self.buffer) {
                break found;
            }
        };
        while self.buffer.len() < head + length {
            assert_ne!(
                self.stream
                    .read_buf(&mut self.buffer)
                    .await
                    .expect("an answer"),
                0,
                "the server hung up"
            );
        }
        &self.buffer[head..head + length]
    }
}

/// Where the body begins and how long it is, once the head is there.
fn head(bytes: &[u8]) -> Option<(usize, usize)> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..end]).expect("a head is ASCII");
    assert!(
        head.starts_with("HTTP/1.1 200 "),
        "{}",
        String::from_utf8_lossy(bytes)
    );
    let lower = head.to_ascii_lowercase();
    let length = lower
        .split_once("content-length: ")
        .expect("answers say their length")
        .1;
    let length = length.split_once("\r\n").expect("a line ends").0;
    Some((end, length.parse().expect("a length is a number")))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Sends each request once over `connections`, each of which sends the next when it has its answer; how long it took,
/// and the bodies if they are to be kept.
pub(crate) fn closed(
    address: SocketAddr,
    connections: usize,
    requests: &[Vec<u8>],
    keep: bool,
) -> (Duration, Vec<Vec<u8>>) {
    let requests: Arc<[Vec<u8>]> = requests.into();
    let answers = Arc::new(Mutex::new(vec![
        Vec::new();
        if keep { requests.len() } else { 0 }
    ]));
    let next = Arc::new(AtomicUsize::new(0));
    let took = runtime().block_on(async {
        let mut opened = Vec::new();
        for _ in 0..connections {
            opened.push(Connection::open(address).await);
        }
        let start = Instant::now();
        let tasks: Vec<_> = opened
            .into_iter()
            .map(|mut connection| {
                let (requests, next, answers) = (requests.clone(), next.clone(), answers.clone());
                tokio::spawn(async move {
                    loop {
                        let i = next.fetch_add(1, SeqCst);
                        let Some(request) = requests.get(i) else {
                            return;
                        };
                        let body = connection.ask(request).await;
                        if keep {
                            answers.lock().expect("no task panics")[i] = body.to_vec();
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no task panics");
        }
        start.elapsed()
    });
    let answers = std::mem::take(&mut *answers.lock().expect("no task panics"));
    (took, answers)
}

/// When, after the start, a request was due, and when its answer was there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answered {
    pub(crate) due: Duration,
    pub(crate) done: Duration,
    pub(crate) request: usize,
}

/// Sends `arrivals` when they are due, on the first connection that is free.
pub(crate) fn open(
    address: SocketAddr,
    connections: usize,
    requests: &[Vec<u8>],
    arrivals: &[Arrival],
) -> Vec<Answered> {
    let requests: Arc<[Vec<u8>]> = requests.into();
    let arrivals: Arc<[Arrival]> = arrivals.into();
    let next = Arc::new(AtomicUsize::new(0));
    let all = Arc::new(Mutex::new(Vec::with_capacity(arrivals.len())));
    runtime().block_on(async {
        let mut opened = Vec::new();
        for _ in 0..connections {
            opened.push(Connection::open(address).await);
        }
        let start = Instant::now();
        let tasks: Vec<_> = opened
            .into_iter()
            .map(|mut connection| {
                let (requests, arrivals, next, all) = (
                    requests.clone(),
                    arrivals.clone(),
                    next.clone(),
                    all.clone(),
                );
                tokio::spawn(async move {
                    // The connections take turns in waiting for the next arrival: all that are free wait for different ones.
                    while let Some(&Arrival { at, request }) =
                        arrivals.get(next.fetch_add(1, SeqCst))
                    {
                        tokio::time::sleep_until((start + at).into()).await;
                        connection.ask(&requests[request]).await;
                        all.lock().expect("no task panics").push(Answered {
                            due: at,
                            done: start.elapsed(),
                            request,
                        });
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no task panics");
        }
    });
    let all = all.lock().expect("no task panics");
    all.clone()
}
