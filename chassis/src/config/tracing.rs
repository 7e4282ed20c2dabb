//! `[tracing]`: where spans go, and which.

use std::{str::FromStr, time::Duration};

use http::Uri;

use super::Reader;

/// Which traces are recorded, and for whom.
#[derive(Clone, Debug)]
pub struct TracingConfig {
    /// `otlp_endpoint` and `otlp_protocol`; none: traces pass through, and no span is made.
    pub collector: Option<Collector>,
    /// `sample_ratio`: the share of those that begin here which is recorded, 0 to 1. A caller that brought one has decided already.
    pub sample_ratio: f64,
    /// `max_traces_per_second`: how many may begin here and be recorded in a second.
    pub max_traces_per_second: u32,
    /// `export_timeout`: how long the collector may take over one call.
    pub export_timeout: Duration,
}

impl Default for TracingConfig {
    fn default() -> Self {
        Self { collector: None, sample_ratio: 1.0, max_traces_per_second: 10, export_timeout: Duration::from_secs(5) }
    }
}

/// A collector of OpenTelemetry's protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// Where it is asked; over HTTP with the path of traces.
    pub uri: Uri,
    /// How.
    pub protocol: OtlpProtocol,
}

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// gRPC, by custom on port 4317.
    Grpc,
    /// Protobuf over HTTP/1.1, by custom on port 4318.
    Http,
}

impl FromStr for OtlpProtocol {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "grpc" => Ok(Self::Grpc),
            "http" => Ok(Self::Http),
            _ => Err("is neither grpc nor http"),
        }
    }
}

struct Endpoint(Uri);

impl FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let uri: Uri = text.parse().map_err(|_| "is not of the form http://host:port")?;
        match (uri.scheme_str(), uri.authority()) {
            (Some("https"), _) => Err("is https; spans go to a collector on this machine or network without TLS: write http://host:port"),
            (Some("http"), Some(authority)) if authority.port().is_some() && uri.query().is_none() => Ok(Self(uri)),
            _ => Err("is not of the form http://host:port"),
        }
    }
}

impl Collector {
    /// Over HTTP the endpoint is the base of one path for each kind of telemetry.
    fn new(endpoint: &Endpoint, protocol: OtlpProtocol) -> Self {
        let path = match protocol {
            OtlpProtocol::Grpc => "/".to_owned(),
            OtlpProtocol::Http => format!("{}/v1/traces", endpoint.0.path().trim_end_matches('/')),
        };
        let authority = endpoint.0.authority().map_or("", http::uri::Authority::as_str);
        let uri = Uri::builder().scheme("http").authority(authority).path_and_query(path).build();
        Self { uri: uri.unwrap_or_default(), protocol }
    }
}

impl TracingConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let default = Self::default();
        let mut section = reader.section("tracing");
        let endpoint = section.key("otlp_endpoint").optional::<Endpoint>();
        let protocol = section.key("otlp_protocol").or(OtlpProtocol::Grpc);
        let sample_ratio = section.key("sample_ratio").within(default.sample_ratio, 0.0..=1.0);
        let max_traces_per_second = section.key("max_traces_per_second").or(default.max_traces_per_second);
        let export_timeout = section.key("export_timeout").duration(default.export_timeout);
        if export_timeout.is_zero() {
            section.problem("export_timeout", "is zero, so that no collector could ever answer");
        }
        section.finish();
        let collector = endpoint.map(|endpoint| Collector::new(&endpoint, protocol));
        Self { collector, sample_ratio, max_traces_per_second, export_timeout }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    fn read(text: &str) -> (TracingConfig, Vec<String>) {
        let mut reader = Reader::new(Source::of(text, &[]));
        let config = TracingConfig::read(&mut reader);
        (config, reader.into_problems().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_collector_is_asked_where_its_protocol_has_it() {
        assert_eq!(read("").0.collector, None);
        for (protocol, endpoint, uri) in [
            ("grpc", "http://c:4317", "http://c:4317/"),
            ("http", "http://c:4318", "http://c:4318/v1/traces"),
            ("http", "http://[::1]:4318/base/", "http://[::1]:4318/base/v1/traces"),
        ] {
            let (config, problems) = read(&format!("[tracing]\notlp_endpoint = \"{endpoint}\"\notlp_protocol = \"{protocol}\""));
            assert_eq!((problems, config.collector.unwrap().uri.to_string()), (vec![], uri.to_owned()));
        }
    }

    #[test]
    fn nonsense_is_named_at_its_place() {
        for (line, problem) in [
            ("otlp_endpoint = \"c:4317\"", "gateway.toml:2: tracing.otlp_endpoint: `c:4317`: is not of the form http://host:port"),
            ("otlp_endpoint = \"http://c\"", "gateway.toml:2: tracing.otlp_endpoint: `http://c`: is not of the form http://host:port"),
            (
                "otlp_endpoint = \"https://c:4317\"",
                "gateway.toml:2: tracing.otlp_endpoint: `https://c:4317`: is https; spans go to a collector on this machine or network without TLS: write http://host:port",
            ),
            ("otlp_protocol = \"json\"", "gateway.toml:2: tracing.otlp_protocol: `json`: is neither grpc nor http"),
            ("sample_ratio = 1.5", "gateway.toml:2: tracing.sample_ratio: 1.5 is outside 0.0..=1.0"),
            ("max_traces_per_second = -1", "gateway.toml:2: tracing.max_traces_per_second: `-1`: invalid digit found in string"),
            ("export_timeout = \"0s\"", "gateway.toml:2: tracing.export_timeout: is zero, so that no collector could ever answer"),
        ] {
            assert_eq!(read(&format!("[tracing]\n{line}")).1, [problem]);
        }
    }
}
