//! Messages as mail, through an SMTP server.

use std::fmt;
use std::time::{Duration, SystemTime};

use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::{SmtpTransport, Transport as _};
use sha2::{Digest as _, Sha256};

use super::Failure;
use super::http::is_loopback;
use super::message::Message;
use super::template::MailText;
use crate::console::text::Plain;
use crate::event::Millis;

/// How a connection is kept from being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Begins in clear and goes on with TLS, or not at all; port 587.
    StartTls,
    /// TLS from the first byte on; port 465.
    Implicit,
    /// Never, for a server on this machine; port 25.
    Clear,
}

/// From whom, to whom, and by which server.
#[derive(Clone)]
pub struct MailOptions {
    pub host: String,
    /// `None`: the usual one of its kind of connection.
    pub port: Option<u16>,
    pub security: Security,
    /// User name and password.
    pub login: Option<(String, String)>,
    /// Certificates (PEM) that are trusted instead of the system's.
    pub ca: Option<Vec<u8>>,
    pub from: String,
    pub to: Vec<String>,
    /// Longest wait for the server in any step.
    pub timeout: Duration,
}

impl fmt::Debug for MailOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailOptions").field("host", &self.host).field("to", &self.to).finish_non_exhaustive()
    }
}

/// A sender of mail.
pub struct Mailer {
    transport: SmtpTransport,
    from: Mailbox,
    to: Vec<Mailbox>,
}

impl fmt::Debug for Mailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailer").field("from", &self.from).field("to", &self.to).finish_non_exhaustive()
    }
}

impl Mailer {
    /// # Errors
    /// Which setting makes no sense, and why.
    pub fn new(options: &MailOptions) -> Result<Mailer, String> {
        let address = |setting: &str, text: &str| {
            text.parse::<Mailbox>()
                .map_err(|error| format!("{setting}: `{}` is no address: {error}", Plain::name(text)))
        };
        let from = address("from", &options.from)?;
        let to = options.to.iter().map(|to| address("to", to)).collect::<Result<Vec<_>, String>>()?;
        if to.is_empty() {
            return Err("to: name at least one address".to_owned());
        }
        let (tls, port) = match options.security {
            Security::StartTls => (Tls::Required(tls(options)?), 587),
            Security::Implicit => (Tls::Wrapper(tls(options)?), 465),
            Security::Clear if options.login.is_some() && !is_loopback(&options.host) => {
                return Err("tls: none would send the password in clear; write starttls or implicit".to_owned());
            }
            Security::Clear => (Tls::None, 25),
        };
        let mut transport = SmtpTransport::builder_dangerous(&options.host)
            .tls(tls)
            .port(options.port.unwrap_or(port))
            .timeout(Some(options.timeout));
        if let Some((user, password)) = &options.login {
            transport = transport.credentials(Credentials::new(user.clone(), password.clone()));
        }
        Ok(Mailer { transport: transport.build(), from, to })
    }

    /// Hands a mail to the server.
    ///
    /// # Errors
    /// It was not taken; whether another try may help.
    pub(super) fn send(&self, message: &Message, text: MailText) -> Result<(), Failure> {
        let mail = self.mail(message, text).map_err(|why| Failure { is_refusal: true, ..Failure::later(why) })?;
        match self.transport.send(&mail) {
            Ok(_) => Ok(()),
            Err(error) => {
                let why = if has_run_out(&error) {
                    "the server has not answered within the timeout".to_owned()
                } else {
                    Plain::name(&error.to_string()).to_string()
                };
                Err(Failure { is_refusal: error.is_permanent(), ..Failure::later(why) })
            }
        }
    }

    fn mail(&self, message: &Message, text: MailText) -> Result<lettre::Message, String> {
        let domain = self.from.email.domain();
        let mut builder = lettre::Message::builder()
            .from(self.from.clone())
            .subject(text.subject)
            // The same in every try, so that a mail that comes twice is shown once.
            .message_id(Some(format!("<{}@{domain}>", message.id)))
            .date(time(message.at))
            // No absence is to be answered with (RFC 3834).
            .raw_header(header("Auto-Submitted", "auto-generated")?)
            .raw_header(header("X-Portcullis-Id", &message.id)?);
        for to in &self.to {
            builder = builder.to(to.clone());
        }
        if let [one] = &message.incidents[..] {
            // The mails of an incident belong to one conversation, whose first mail nobody needs to have.
            builder = builder.references(format!("<{}.incident@{domain}>", short_hash(&one.incident_id)));
        }
        builder.multipart(MultiPart::alternative_plain_html(text.text, text.html)).map_err(|error| error.to_string())
    }
}

/// A socket that may wait no longer says that it would have to.
fn has_run_out(error: &lettre::transport::smtp::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
        }
        source = error.source();
    }
    false
}

fn tls(options: &MailOptions) -> Result<TlsParameters, String> {
    let mut tls = TlsParameters::builder(options.host.clone());
    if let Some(pem) = &options.ca {
        let certificate = Certificate::from_pem(pem).map_err(|error| format!("ca_file: {error}"))?;
        tls = tls.certificate_store(CertificateStore::None).add_root_certificate(certificate);
    }
    tls.build().map_err(|error| format!("tls: {error}"))
}

fn header(name: &'static str, value: &str) -> Result<HeaderValue, String> {
    let name = HeaderName::new_from_ascii(name.to_owned()).map_err(|error| error.to_string())?;
    Ok(HeaderValue::new(name, value.to_owned()))
}

fn time(at: Millis) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(at).unwrap_or_default())
}

fn short_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
