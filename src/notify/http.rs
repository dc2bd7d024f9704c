//! Messages to an address by HTTP: Slack-compatible incoming webhooks, and webhooks of anybody.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider, parse_pem};

use super::Failure;
use crate::console::text::Plain;
use crate::event::Millis;

/// Longest part of an answer that is looked at, in bytes.
const ANSWER_BYTES_MAX: u64 = 4 << 10;

/// Where messages are posted to.
#[derive(Clone)]
pub struct HttpOptions {
    /// Most such addresses are secrets, so no log shows one.
    pub url: String,
    /// Certificates (PEM) that are trusted instead of the system's.
    pub ca: Option<Vec<u8>>,
    /// Longest delivery, from its start to the end of the answer.
    pub timeout: Duration,
    /// Whether an address of another machine may go without TLS.
    pub allow_http: bool,
}

impl fmt::Debug for HttpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpOptions").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// A client for one address.
#[derive(Debug)]
pub struct Http {
    agent: Agent,
    options: HttpOptions,
}

impl Http {
    /// # Errors
    /// The address is none, or goes without TLS to elsewhere; the certificates do not read.
    pub fn new(options: HttpOptions) -> Result<Http, String> {
        let url: Uri = options.url.parse().map_err(|_| "url: this is no address of a webhook".to_owned())?;
        let host = url.host().filter(|host| !host.is_empty()).ok_or("url: write it with https:// and a host")?;
        match url.scheme_str() {
            Some("https") => {}
            Some("http") if options.allow_http || is_loopback(host) => {}
            Some("http") => {
                return Err(
                    "url: http:// sends it in clear; write https://, or allow_http: true where only you listen"
                        .to_owned(),
                );
            }
            _ => return Err("url: write it with https:// and a host".to_owned()),
        }
        let mut tls = TlsConfig::builder().provider(TlsProvider::NativeTls);
        if let Some(pem) = &options.ca {
            tls = tls.root_certs(RootCerts::Specific(Arc::new(certificates(pem)?)));
        }
        let agent = Agent::config_builder()
            .timeout_global(Some(options.timeout))
            .http_status_as_error(false)
            // What was signed for one address is not handed on to another.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .tls_config(tls.build())
            .user_agent(concat!("portcullis/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Ok(Http { agent, options })
    }

    /// Posts JSON with further headers.
    ///
    /// # Errors
    /// It was not taken; whether another try may help.
    pub(super) fn post(&self, body: &str, headers: &[(&str, &str)]) -> Result<(), Failure> {
        let request = self.agent.post(&self.options.url).header("content-type", "application/json");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let mut answer = match request.send(body) {
            Ok(answer) => answer,
            Err(error) => return Err(Failure::later(self.without_url(&error.to_string()))),
        };
        let status = answer.status().as_u16();
        if (200..300).contains(&status) {
            return Ok(());
        }
        let asked = answer.headers().get("retry-after").and_then(|text| text.to_str().ok()?.trim().parse().ok());
        let said = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().unwrap_or_default();
        let why = format!("it answers {status}: {}", Plain::name(&self.without_url(said.trim())));
        Err(match status {
            408 | 425 | 429 | 500.. => {
                let asked = asked.map(|seconds: u32| Millis::from(seconds).saturating_mul(1_000));
                Failure { asked, ..Failure::later(why) }
            }
            _ => Failure { is_refusal: true, ..Failure::later(why) },
        })
    }

    fn without_url(&self, text: &str) -> String {
        text.replace(&self.options.url, "its address")
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>, String> {
    let parsed = parse_pem(pem).filter_map(|item| match item {
        Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(Ok(certificate)),
        Ok(_) => None,
        Err(error) => Some(Err(format!("ca_file: {error}"))),
    });
    let certificates = parsed.collect::<Result<Vec<_>, String>>()?;
    if certificates.is_empty() { Err("ca_file: there is no certificate in it".to_owned()) } else { Ok(certificates) }
}

/// Whether a host is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
