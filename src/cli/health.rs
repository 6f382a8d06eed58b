//! `sorank health`: asks a server on this machine whether it takes requests. For images that hold nothing but this binary.
//!
//! One request by hand: a client library would be larger than the question.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

use super::Failure;

/// Exits with 0 where `GET /health` answers 200, else with 1.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address; one that means all (0.0.0.0) is asked on the loopback
    #[arg(long, default_value = "127.0.0.1", env = "SORANK_HOST")]
    host: String,
    /// Port
    #[arg(long, default_value_t = 8080, env = "SORANK_PORT")]
    port: u16,
    /// Seconds to wait
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..3600))]
    timeout: u64,
}

/// How much of an answer is looked at.
const STATUS_LINE: u64 = 64;

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let (host, port) = (args.host.as_str(), args.port);
    let at = |e: std::io::Error| Failure::Failed(format!("{host}:{port}: {e}"));
    let none = || Failure::Failed(format!("{host}:{port}: no such address"));
    let address = (host, port).to_socket_addrs().map_err(at)?.next();
    let address = reachable(address.ok_or_else(none)?);
    let limit = Duration::from_secs(args.timeout);
    let mut stream = TcpStream::connect_timeout(&address, limit).map_err(at)?;
    stream.set_read_timeout(Some(limit)).map_err(at)?;
    stream.set_write_timeout(Some(limit)).map_err(at)?;
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .map_err(at)?;
    let mut head = Vec::new();
    stream
        .take(STATUS_LINE)
        .read_to_end(&mut head)
        .map_err(at)?;
    let head = String::from_utf8_lossy(&head);
    let line = head.lines().next().unwrap_or_default();
    match line.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(Failure::Failed(format!("{host}:{port}: not ready: {line}"))),
    }
}

/// Where a server that listens on `address` can be asked.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}
