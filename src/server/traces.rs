//! Spans to an OpenTelemetry collector over HTTP, by the feature `otlp`.

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider},
};
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::registry::LookupSpan;

/// Sends what is left when it is dropped.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!("the last traces were not sent: {error}");
        }
    }
}

/// A layer that sends spans to `endpoint`, and what keeps it going. To be called outside of the async threads.
///
/// # Errors
/// When the endpoint is no URL.
pub fn traces<S>(endpoint: &str) -> Result<(Traces, OpenTelemetryLayer<S, SdkTracer>), String>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint)
        .build()
        .map_err(|e| format!("--otlp-endpoint {endpoint}: {e}"))?;
    let resource = Resource::builder().with_service_name("sorank").build();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("sorank"));
    Ok((Traces(provider), layer))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn a_span_reaches_the_collector() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let collector = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 64 << 10];
            let mut got = 0;
            while !String::from_utf8_lossy(&request[..got]).contains("one-request") {
                let n = stream.read(&mut request[got..]).unwrap();
                assert!(n > 0, "the span is in the request");
                got += n;
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                .unwrap();
            String::from_utf8_lossy(&request[..got]).into_owned()
        });
        let (traces, layer) = traces(&format!("http://{address}/v1/traces")).unwrap();
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            drop(tracing::info_span!("one-request").entered());
        });
        drop(traces);
        let request = collector.join().unwrap();
        assert!(request.starts_with("POST /v1/traces "), "{request}");
    }
}
