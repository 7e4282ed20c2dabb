use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use super::{reload::Taken, *};
use crate::metrics::Metrics;

/// A directory with a pair in it.
struct Files {
    dir: TempDir,
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn pair(year: i32) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

impl Files {
    fn new() -> Self {
        let this = Self { dir: TempDir::new().unwrap() };
        let (certificate, key) = pair(2100);
        this.write(&certificate, &key);
        this
    }

    fn write(&self, certificate: &str, key: &str) {
        write(&self.config().certificate, certificate, 0o644);
        write(&self.config().private_key, key, 0o640);
    }

    fn config(&self) -> TlsConfig {
        let path = |name: &str| self.dir.path().join(name);
        TlsConfig { certificate: path("tls.pem"), private_key: path("tls.key"), clients: None, handshake_timeout: Duration::from_secs(5) }
    }

    fn problem(&self, config: &TlsConfig) -> String {
        config.check().unwrap_err().to_string().replace(self.dir.path().to_str().unwrap(), "")
    }
}

#[test]
fn a_pair_that_cannot_be_shown_is_refused_by_the_name_of_its_file() {
    let files = Files::new();
    let config = files.config();
    config.check().unwrap();
    fs::set_permissions(&config.private_key, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(files.problem(&config), "/tls.key: is accessible by others (mode 644); chmod o= it");
    fs::set_permissions(&config.private_key, fs::Permissions::from_mode(0o600)).unwrap();
    config.check().unwrap();
    let elsewhere = TlsConfig { certificate: "/nowhere.pem".into(), ..config.clone() };
    assert_eq!(files.problem(&elsewhere), "/nowhere.pem: cannot be read: No such file or directory (os error 2)");
    let twisted = TlsConfig { certificate: config.private_key.clone(), private_key: config.certificate.clone(), ..config.clone() };
    assert_eq!(files.problem(&twisted), "/tls.key: has no certificate in PEM");
    let (other, _) = pair(2100);
    write(&config.certificate, &other, 0o644);
    assert!(files.problem(&config).starts_with("/tls.key: cannot be used: "), "{}", files.problem(&config));
    let (mine, key) = pair(2100);
    files.write(&mine, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    assert!(files.problem(&config).starts_with("/tls.key: "), "{}", files.problem(&config));
    files.write("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &key);
    assert!(files.problem(&config).starts_with("/tls.pem: is no X.509 certificate"), "{}", files.problem(&config));
    files.write(&mine, &key);
    let ca = files.dir.path().join("ca.pem");
    let clients = TlsConfig { clients: Some((ca.clone(), ClientCertificates::Optional)), ..config };
    assert!(files.problem(&clients).starts_with("/ca.pem: cannot be read"));
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    write(&ca, &CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap().pem(), 0o644);
    clients.check().unwrap();
}

fn expiry(metrics: &Metrics) -> i64 {
    let text = metrics.text();
    let line = text.lines().find(|line| line.starts_with("tls_certificate_expiry_seconds{")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Polls until it is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), waited).await.expect(what);
}

#[test]
fn files_that_cannot_be_read_are_tried_again_and_told_once() {
    let (files, metrics) = (Files::new(), Metrics::new("edge", 0));
    let counted = ConnectionMetrics::new(&metrics);
    let tls = Tls::open(&files.config(), &counted).unwrap();
    let failed = || counted.reloads.with_label_values(&["failed"]).get();
    let (config, away) = (files.config(), files.dir.path().join("away"));
    fs::rename(&config.certificate, &away).unwrap();
    assert_eq!((tls.take(false), failed()), (Taken::Unreadable, 1));
    assert_eq!((tls.take(true), failed()), (Taken::Unreadable, 1));
    fs::rename(&away, &config.certificate).unwrap();
    assert_eq!((tls.take(true), failed()), (Taken::Settled, 1));
    fs::write(&config.certificate, "").unwrap();
    assert_eq!((tls.take(false), failed()), (Taken::Settled, 2), "what is broken stays so until it is written anew");
}

#[tokio::test]
async fn a_changed_pair_is_taken_and_a_broken_one_leaves_what_was_there() {
    const OF_2100: i64 = 4_102_444_800;
    const OF_2050: i64 = 2_524_608_000;
    let (files, metrics) = (Files::new(), Metrics::new("edge", 0));
    let counted = ConnectionMetrics::new(&metrics);
    let tls = Tls::open(&files.config(), &counted).unwrap();
    tls.announce("grpc");
    assert_eq!(expiry(&metrics), OF_2100);
    let reloads = |result: &str| counted.reloads.with_label_values(&[result]).get();
    let watched = async {
        let (certificate, key) = pair(2050);
        files.write(&certificate, &key);
        until("the pair is taken", || reloads("ok") == 1).await;
        assert_eq!(expiry(&metrics), OF_2050);
        let shown = Arc::clone(&tls.shown.read().unwrap());
        let (unfit, _) = pair(2060);
        let before = reloads("failed");
        // In one act: were there two, a machine that stands still in between would see two changes.
        let beside = files.dir.path().join("unfit.pem");
        write(&beside, &unfit, 0o644);
        fs::rename(&beside, files.config().certificate).unwrap();
        until("the broken pair is seen", || reloads("failed") > before).await;
        assert!(Arc::ptr_eq(&shown, &tls.shown.read().unwrap()) && expiry(&metrics) == OF_2050);
        let before = reloads("failed");
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(reloads("failed"), before, "it is told once");
        fs::remove_file(files.config().private_key).unwrap();
        until("a file that is gone is seen", || reloads("failed") > before).await;
        let (certificate, key) = pair(2100);
        files.write(&certificate, &key);
        until("the mended pair is taken", || reloads("ok") == 2).await;
        assert_eq!(expiry(&metrics), OF_2100);
    };
    tokio::select! {
        () = watched => {}
        () = Arc::clone(&tls).watch() => unreachable!("it watches on"),
    }
}
