//! Asks Portcullis before a password is checked. Standard library only, so without TLS: for a server on the same machine
//! or network. Any fault lets the client in.
//!
//!     rustc -O client.rs && EDGE_KEY=… ./client 127.0.0.1:8470 shop 203.0.113.9 ada@example.com [device]

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

/// How long a login waits at most, from the question to the whole answer.
const TIMEOUT: Duration = Duration::from_millis(300);
const ANSWER_BYTES_MAX: usize = 1 << 16;
const VERDICTS: [&str; 3] = ["allow", "challenge", "deny"];
const POLICIES: [&str; 4] = ["NOBODY", "ATTACKED_TRAITS", "UNKNOWN_PAIRS", "EVERYBODY"];

pub struct Portcullis {
    pub address: String,
    pub tenant: String,
    pub key: String,
}

impl Portcullis {
    /// The verdict; `None` where there is no answer, which means to let in.
    pub fn check(&self, ip: &str, account: &str, device: Option<&str>) -> Option<&'static str> {
        let device = device.map_or("null".to_owned(), json);
        let (tenant, ip, account) = (json(&self.tenant), json(ip), json(account));
        let question = format!("{{\"tenant\":{tenant},\"ip\":{ip},\"account\":{account},\"device\":{device}}}");
        let answer = self.ask("POST", "/v1/check", &question)?;
        // Within a text of the answer the quotes would be escaped, so what a client chose is never taken for this.
        VERDICTS.into_iter().find(|verdict| answer.contains(&format!("\"verdict\":\"{verdict}\"")))
    }

    /// Whom to challenge now; for a page that does not know the account yet.
    pub fn challenge(&self) -> Option<&'static str> {
        let answer = self.ask("GET", &format!("/v1/attack-status/{}", self.tenant), "")?;
        POLICIES.into_iter().find(|policy| answer.contains(&format!("\"challenge\":\"{policy}\"")))
    }

    /// The body of an answer of status 200.
    fn ask(&self, method: &str, path: &str, body: &str) -> Option<String> {
        let end = Instant::now() + TIMEOUT;
        let left = || end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        let address = self.address.to_socket_addrs().ok()?.next()?;
        let mut stream = TcpStream::connect_timeout(&address, left()?).ok()?;
        stream.set_write_timeout(Some(left()?)).ok()?;
        let (host, key, length) = (&self.address, &self.key, body.len());
        let head = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\nX-Api-Key: {key}\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(format!("{head}{body}").as_bytes()).ok()?;
        let (mut answer, mut part) = (Vec::new(), [0; 4096]);
        while answer.len() < ANSWER_BYTES_MAX {
            stream.set_read_timeout(Some(left()?)).ok()?;
            match stream.read(&mut part).ok()? {
                0 => break,
                n => answer.extend_from_slice(&part[..n]),
            }
        }
        let answer = String::from_utf8(answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        (head.get(9..12) == Some("200")).then(|| body.to_owned())
    }
}

fn json(text: &str) -> String {
    let mut out = String::from("\"");
    for unit in text.encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte @ b' '..=b'~') if !matches!(byte, b'"' | b'\\') => out.push(byte.into()),
            _ => drop(write!(out, "\\u{unit:04x}")),
        }
    }
    out + "\""
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, tenant, ip, account, ..] = &args[..] else { panic!("client ADDRESS TENANT IP ACCOUNT [DEVICE]") };
    let key = std::env::var("EDGE_KEY").expect("EDGE_KEY");
    let portcullis = Portcullis { address: address.clone(), tenant: tenant.clone(), key };
    let began = Instant::now();
    let verdict = portcullis.check(ip, account, args.get(4).map(String::as_str));
    let (how, took) = (if verdict.is_some() { "answered" } else { "open" }, began.elapsed().as_millis());
    println!("{} {how} {took} {}", verdict.unwrap_or("allow"), portcullis.challenge().unwrap_or("NOBODY"));
}
