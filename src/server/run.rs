//! Sockets: accepting, time limits on slow clients, and the end of the server.
//!
//! hyper serves each connection with a limit on how long its headers may take (which is also how long an idle one may
//! stay); the time of a body is limited where it is read. To end, the server stops accepting, answers new requests on
//! open connections with 503, lets those under way finish within the drain timeout, and closes.

use std::{net::SocketAddr, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::state::App;

/// A server that accepts connections.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<bool>,
}

impl Running {
    /// Serves `routes` of `app` on `listener`.
    ///
    /// # Errors
    /// When the listener does not tell its address.
    pub fn start(listener: TcpListener, app: &App, routes: Router) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let limits = Limits {
            read: app.options.read_timeout,
            drain: app.options.drain_timeout,
        };
        let accepting = tokio::spawn(accept(listener, routes, limits, stopped));
        Ok(Self {
            address,
            stop,
            accepting,
        })
    }

    /// Stops accepting and waits for what is under way; whether all of it was done within the drain timeout.
    pub async fn stop(self) -> bool {
        // The receiver lives as long as the task that is awaited below.
        let _ = self.stop.send(true);
        self.accepting.await.unwrap_or(false)
    }
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    read: Duration,
    drain: Duration,
}

async fn accept(
    listener: TcpListener,
    routes: Router,
    limits: Limits,
    mut stopped: watch::Receiver<bool>,
) -> bool {
    // Without guessing at the version, which would wait for the first byte of a silent client without a limit.
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.read);
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.changed() => break,
        };
        match accepted {
            Ok((stream, _)) => serve(stream, &routes, &builder, &graceful),
            Err(error) => {
                // Out of file descriptors, mostly: others will close theirs.
                tracing::warn!("accepting a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    tokio::time::timeout(limits.drain, graceful.shutdown())
        .await
        .is_ok()
}

fn serve(
    stream: TcpStream,
    routes: &Router,
    builder: &auto::Builder<TokioExecutor>,
    graceful: &GracefulShutdown,
) {
    let _ = stream.set_nodelay(true); // only slower without
    let service = TowerToHyperService::new(routes.clone());
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let connection = graceful.watch(connection.into_owned());
    tokio::spawn(async move {
        // A client that hangs up or sends no HTTP is not worth a line.
        if let Err(error) = connection.await {
            tracing::debug!("connection: {error}");
        }
    });
}
