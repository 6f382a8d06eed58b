//! Bodies that nobody reads to their end. A request that is refused early (401, 404, 413, 415, 429) leaves bytes that the
//! client is still sending; closing over them resets the connection, and the client sees that instead of the answer. So
//! what is left of a dropped body is read and thrown away beside the answer, up to a number of bytes and a time; past
//! either the connection is closed after all.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Error,
    body::{Body, Bytes, HttpBody},
    extract::Request,
    http::header,
};
use hyper::body::{Frame, SizeHint};

use super::options::Options;

/// Left-over bytes that are read from any client; more where bodies may be large.
const LEAST_BYTES: usize = 16 << 20;
/// Or so many times the largest body that is taken.
const BODIES: usize = 4;

/// How much of a body is read for nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    bytes: usize,
    time: Duration,
}

impl Patience {
    pub(super) fn of(options: &Options) -> Self {
        Self {
            bytes: LEAST_BYTES.max(options.max_body_bytes.saturating_mul(BODIES)),
            time: options.read_timeout,
        }
    }

    /// `request`, whose body is read to its end also where nobody wants it.
    pub(super) fn with(self, request: Request) -> Request {
        // Who asks first whether to send has sent nothing yet, and is told by the answer not to.
        let asks = request.headers().contains_key(header::EXPECT);
        request.map(|body| {
            Body::new(Lingering {
                body: Some(body),
                begun: !asks,
                patience: self,
            })
        })
    }
}

struct Lingering {
    /// Until it is dropped.
    body: Option<Body>,
    /// The client sends.
    begun: bool,
    patience: Patience,
}

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.begun = true;
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let none = || SizeHint::with_exact(0);
        self.body.as_ref().map_or_else(none, HttpBody::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let left = self.body.take().filter(|body| !body.is_end_stream());
        let runtime = tokio::runtime::Handle::try_current();
        if let (Some(body), true, Ok(runtime)) = (left, self.begun, runtime) {
            let Patience { bytes, time } = self.patience;
            runtime.spawn(tokio::time::timeout(time, throw_away(body, bytes)));
        }
    }
}

/// Reads at most `most` bytes of `body`.
async fn throw_away(mut body: Body, most: usize) {
    let mut read = 0;
    while read < most {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        match frame {
            Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
            // The end, or the client has gone.
            Some(Err(_)) | None => return,
        }
    }
}
