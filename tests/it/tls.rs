//! Servers that speak TLS, asked by curl: who is taken, and what becomes of certificates that change.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use portcullis::event::{Action, Scope};
use rdkafka::mocking::MockCluster;

use crate::support::edge::{Edge, KEY, Teller};
use crate::support::ingest::{Door, TOKEN, event};
use crate::support::records::{DEADLINE, connection};
use crate::support::until;

/// Authorities and what they signed, in a folder.
struct Certificates(tempfile::TempDir);

impl Certificates {
    /// An authority, a server of this machine, a client that has the name of a key, one that has another name, and one
    /// with the name of a key that another authority has signed.
    fn make() -> Certificates {
        let made = Certificates(tempfile::tempdir().unwrap());
        made.authority("ca");
        made.authority("other");
        made.signed("server", "localhost", "ca");
        made.signed("client", "tests", "ca");
        made.signed("nobody", "somebody-else", "ca");
        made.signed("forged", "tests", "other");
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn authority(&self, name: &str) {
        self.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            &format!("/CN={name}"),
            "-out",
            &self.text(&format!("{name}.pem")),
            "-keyout",
            &self.text(&format!("{name}.key")),
        ]);
    }

    fn signed(&self, name: &str, common_name: &str, by: &str) {
        self.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            &format!("/CN={common_name}"),
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-CA",
            &self.text(&format!("{by}.pem")),
            "-CAkey",
            &self.text(&format!("{by}.key")),
            "-out",
            &self.text(&format!("{name}.pem")),
            "-keyout",
            &self.text(&format!("{name}.key")),
        ]);
    }

    fn openssl(&self, arguments: &[&str]) {
        let made = Command::new("openssl").args(arguments).output().expect("openssl: run `make setup`");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    fn flags(&self, asks_clients: bool) -> String {
        let mut flags = format!("--tls-cert {} --tls-key {}", self.text("server.pem"), self.text("server.key"));
        if asks_clients {
            flags.push_str(&format!(" --tls-client-ca {}", self.text("ca.pem")));
        }
        flags
    }

    /// The status of an answer to curl, which trusts this authority; or what it says is wrong.
    fn curl(&self, address: SocketAddr, path: &str, client: Option<&str>, more: &[&str]) -> Result<u16, String> {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "30", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"]);
        command.arg(self.path("ca.pem"));
        if let Some(client) = client {
            command.arg("--cert").arg(self.path(&format!("{client}.pem")));
            command.arg("--key").arg(self.path(&format!("{client}.key")));
        }
        let output =
            command.args(more).arg(format!("https://{address}{path}")).output().expect("curl: run `make setup`");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).parse().unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }
}

/// An edge server with one blocked address, and the cluster behind it.
fn edge(
    certificates: &Certificates,
    asks_clients: bool,
) -> (Edge, MockCluster<'static, rdkafka::producer::DefaultProducerContext>) {
    let cluster = MockCluster::new(1).unwrap();
    let connection = connection(&cluster.bootstrap_servers(), "edge-tls");
    for name in ["blocklist", "exemptions", "attack-status", "known-pairs"] {
        cluster.create_topic(&connection.topics.public(name), 1, 1).unwrap();
    }
    Teller::new(&connection).restrict(Scope::Ip, "203.0.113.1", Action::Block, None, 1);
    let edge = Edge::start(&connection, &certificates.flags(asks_clients));
    edge.until_ready();
    (edge, cluster)
}

const DENIED: &str = "/v1/check?ip=203.0.113.1";
/// So that a proxy lets everybody in.
const NO_KEY: u16 = 500;

#[test]
fn an_edge_server_speaks_tls_to_whoever_has_a_key() {
    let certificates = Certificates::make();
    let (edge, _cluster) = edge(&certificates, false);
    let key = format!("X-Api-Key: {KEY}");
    let ask = |client: Option<&str>, more: &[&str]| certificates.curl(edge.address, DENIED, client, more);
    assert_eq!(ask(None, &["-H", &key]), Ok(403));
    assert_eq!(ask(None, &[]), Ok(NO_KEY));
    assert_eq!(ask(Some("client"), &[]), Ok(NO_KEY), "nobody asked it for a certificate");
    assert_eq!(ask(None, &["-H", "X-Portcullis-Verified: tests"]), Ok(NO_KEY), "a client names itself");
    assert_eq!(ask(None, &["-H", &key, "--tls-max", "1.2"]), Ok(403));
    assert!(ask(None, &["-H", &key, "--tls-max", "1.1"]).is_err(), "what is broken is not spoken");
    // Whoever speaks in clear gets no answer, and holds up nobody.
    let mut clear = TcpStream::connect(edge.address).unwrap();
    clear.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    clear.write_all(format!("GET {DENIED} HTTP/1.0\r\n{key}\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(ask(None, &["-H", &key]), Ok(403));
    let mut answer = Vec::new();
    drop(std::io::Read::read_to_end(&mut clear, &mut answer));
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1"), "{answer:?}");
}

#[test]
fn a_client_is_known_by_its_certificate() {
    let certificates = Certificates::make();
    let (edge, _cluster) = edge(&certificates, true);
    let key = format!("X-Api-Key: {KEY}");
    let ask = |client: Option<&str>, more: &[&str]| certificates.curl(edge.address, DENIED, client, more);
    assert_eq!(ask(Some("client"), &[]), Ok(403), "its name is that of a key");
    assert_eq!(ask(Some("nobody"), &[]), Ok(NO_KEY), "its name is that of no key");
    assert_eq!(ask(Some("nobody"), &["-H", "X-Portcullis-Verified: tests"]), Ok(NO_KEY), "and it names itself");
    assert_eq!(ask(Some("nobody"), &["-H", &key]), Ok(403), "it shows one");
    assert_eq!(ask(Some("client"), &["-H", "X-Api-Key: 0000000000000000"]), Ok(NO_KEY), "a wrong key is wrong");
    assert!(ask(None, &["-H", &key]).is_err(), "without a certificate");
    assert!(ask(Some("forged"), &["-H", &key]).is_err(), "of another authority");
    // A bouncer polls.
    let polled = certificates.curl(edge.address, "/v1/decisions/stream?startup=true", Some("client"), &[]);
    assert_eq!(polled, Ok(200));
}

#[test]
fn certificates_that_change_are_read_anew_and_what_does_not_read_changes_nothing() {
    let certificates = Certificates::make();
    let (edge, _cluster) = edge(&certificates, false);
    let key = format!("X-Api-Key: {KEY}");
    let ask = || certificates.curl(edge.address, DENIED, None, &["-H", &key]);
    let put = |name: &str, bytes: &[u8]| std::fs::write(certificates.path(name), bytes).unwrap();
    let good = ["server.pem", "server.key"].map(|name| std::fs::read(certificates.path(name)).unwrap());
    put("server.pem", b"nonsense");
    assert_eq!(ask(), Ok(403));
    // By an authority that curl does not trust.
    certificates.signed("server", "localhost", "other");
    until(DEADLINE, "the new certificate", || ask().is_err().then_some(()));
    put("server.pem", &good[0]);
    put("server.key", &good[1]);
    until(DEADLINE, "the old one again", || (ask() == Ok(403)).then_some(()));
}

#[test]
fn the_gateway_takes_events_by_tls() {
    let certificates = Certificates::make();
    let cluster = MockCluster::new(1).unwrap();
    let connection = connection(&cluster.bootstrap_servers(), "ingest-tls");
    cluster.create_topic(&connection.topics.public("login-events"), 1, 1).unwrap();
    let door = Door::start(&connection, &certificates.flags(true));
    until(DEADLINE, "the gateway", || door.shown.is_ready().then_some(()));
    let event = event("a").to_string();
    let key = format!("X-Api-Key: {TOKEN}");
    let send = |client| {
        let more = ["-H", &key, "-H", "Content-Type: application/json", "-d", &event];
        certificates.curl(door.address, "/v1/events", client, &more)
    };
    assert_eq!(send(Some("client")), Ok(202));
    assert!(send(None).is_err(), "without a certificate");
    assert!(send(Some("forged")).is_err());
}

#[test]
fn the_program_says_which_file_is_wrong() {
    let certificates = Certificates::make();
    let keys = certificates.path("keys");
    std::fs::write(&keys, format!("tests: {KEY}\n")).unwrap();
    std::fs::write(certificates.path("empty.pem"), "").unwrap();
    let run = |flags: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["edge", "--listen", "127.0.0.1:0", "--bootstrap", "127.0.0.1:1", "--tenant", "shop", "--keys"]);
        command.arg(&keys);
        for (flag, file) in flags {
            command.arg(flag).arg(certificates.path(file));
        }
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (cert, key, ca) = ("--tls-cert", "--tls-key", "--tls-client-ca");
    for (flags, words) in [
        (&[(cert, "server.pem")][..], "--tls-key"),
        (&[(ca, "ca.pem")][..], "--tls-cert"),
        (&[(cert, "none.pem"), (key, "server.key")][..], "the certificate"),
        (&[(cert, "server.pem"), (key, "none.key")][..], "the private key"),
        (&[(cert, "server.pem"), (key, "client.key")][..], "is not the key of"),
        (&[(cert, "server.pem"), (key, "server.key"), (ca, "none.pem")][..], "the authorities of clients"),
        (&[(cert, "server.pem"), (key, "server.key"), (ca, "empty.pem")][..], "empty.pem: there is no certificate"),
        (&[(cert, "server.key"), (key, "server.key")][..], "server.key: there is no certificate"),
        (&[(cert, "server.pem"), (key, "ca.pem")][..], "ca.pem: there is no private key"),
    ] {
        let (code, said) = run(flags);
        assert!(code.is_some_and(|code| code != 0) && said.contains(words), "{flags:?}: {code:?} {said}");
    }
}
