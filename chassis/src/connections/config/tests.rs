use super::*;
use crate::config::Source;

fn read(text: &str) -> (Config, Vec<String>) {
    let mut reader = Reader::new(Source::of(text, &[]));
    let config = Config::read(&mut reader).unwrap();
    (config, reader.into_problems().iter().map(ToString::to_string).collect())
}

#[test]
fn there_are_limits_where_nothing_is_configured() {
    let (config, problems) = read("");
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!((config.max, config.max_per_address, config.max_streams, config.max_header_bytes), (65536, 4096, 1000, 64 << 10));
    assert_eq!([config.head_timeout, config.idle_timeout, config.write_timeout].map(|span| span.as_secs()), [10, 300, 30]);
    assert!(config.tls.is_none() && !config.proxy_protocol_from.contain("127.0.0.1".parse().unwrap()));
}

#[test]
fn limits_that_would_serve_nobody_are_refused() {
    let (_, problems) = read(
        "[connections]\nmax = 0\nmax_per_address = 0\nmax_streams = 0\nmax_header_bytes = '1KiB'\nhead_timeout = '1ms'\nidle_timeout = '48h'\n\
         write_timeout = '0s'\nproxy_protocol_from = ['10.0.0.0/8', 'lb']\nmax_streams_each = 1\n",
    );
    let wanted = [
        "gateway.toml:10: connections.max_streams_each: unknown key; did you mean `max_streams`?",
        "gateway.toml:2: connections.max: 0 is outside 1..=16777216",
        "gateway.toml:3: connections.max_per_address: 0 is outside 1..=16777216",
        "gateway.toml:4: connections.max_streams: 0 is outside 1..=1048576",
        "gateway.toml:5: connections.max_header_bytes: is outside 8KiB to 1MiB",
        "gateway.toml:6: connections.head_timeout: is outside 100ms to 600s",
        "gateway.toml:7: connections.idle_timeout: is outside 100ms to 86400s",
        "gateway.toml:8: connections.write_timeout: is outside 100ms to 3600s",
        "gateway.toml:9: connections.proxy_protocol_from: `lb`: is neither an address nor a network; write 192.0.2.1, 10.0.0.0/8 or 2001:db8::/32",
    ];
    assert_eq!(problems, wanted);
}

#[test]
fn half_of_a_pair_and_a_ca_without_one_are_refused() {
    assert_eq!(read("[tls]\ncertificate = '/x'\n").1, ["gateway.toml:2: tls.certificate: needs private_key"]);
    assert_eq!(read("[tls]\nprivate_key = '/x'\n").1, ["gateway.toml:2: tls.private_key: needs certificate"]);
    assert_eq!(read("[tls]\nclient_ca = '/x'\n").1, ["gateway.toml:2: tls.client_ca: needs certificate and private_key"]);
    let alone = "gateway.toml:2: tls.client_certificate: needs client_ca, which says who signs them";
    assert_eq!(read("[tls]\nclient_certificate = 'optional'\n").1, [alone]);
    let wrong = read("[tls]\nclient_certificate = 'always'\n").1;
    assert_eq!(wrong, ["gateway.toml:2: tls.client_certificate: `always`: is neither optional nor required"]);
    let missing = "gateway.toml:2: tls.certificate: /nowhere/c.pem: cannot be read: No such file or directory (os error 2)";
    assert_eq!(read("[tls]\ncertificate = '/nowhere/c.pem'\nprivate_key = '/nowhere/k.pem'\n").1, [missing]);
}
