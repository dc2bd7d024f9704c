//! TLS of a server: its certificate, and whom it takes by theirs. Files that change are read anew.

use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::ssl::{Ssl, SslAcceptor, SslContext, SslMethod, SslSessionCacheMode, SslVerifyMode, SslVersion};
use openssl::x509::X509;
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use crate::app::clock::ProcessClock;
use crate::edge::server::VerifiedClient;
use crate::log::Clock as _;

/// How long a client may take to agree on keys.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether the files have changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where the certificates are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct TlsArgs {
    /// Certificate of this server with its chain (PEM); without it, HTTP in clear. A file that changes is read anew
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Take only clients with a certificate that one of these authorities (PEM) has signed
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
}

impl TlsArgs {
    /// What they say, read; `None`: no TLS.
    ///
    /// # Errors
    /// Which file does not read, and why; or that certificate and key do not belong together.
    pub fn read(&self) -> Result<Option<Tls>> {
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else { return Ok(None) };
        let files = Files { cert: cert.clone(), key: key.clone(), client_ca: self.tls_client_ca.clone() };
        let (context, changed) = (files.context()?, files.changed());
        let clock = ProcessClock::real();
        let held = Mutex::new(Held { context, changed, looked_at: clock.elapsed() });
        Ok(Some(Tls { files, held, clock }))
    }
}

#[derive(Debug)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// The certificates in use.
pub struct Tls {
    files: Files,
    held: Mutex<Held>,
    clock: ProcessClock,
}

struct Held {
    context: SslContext,
    /// When the files had last been changed as they were read.
    changed: Vec<Option<SystemTime>>,
    /// By the clock.
    looked_at: Duration,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Files {
    fn context(&self) -> Result<SslContext> {
        let read =
            |what: &str, path: &Path| std::fs::read(path).with_context(|| format!("the {what} {}", path.display()));
        let parsed = |path: &Path, pem: &[u8]| match X509::stack_from_pem(pem) {
            Ok(certificates) if !certificates.is_empty() => Ok(certificates),
            Ok(_) | Err(_) => Err(anyhow!("{}: there is no certificate (PEM) in it", path.display())),
        };
        // Mozilla's "intermediate": TLS 1.2 and 1.3, with ciphers that keep what was said secret later.
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
        builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        // No state for clients that come back: whom they were taken for is asked each time.
        builder.set_session_cache_mode(SslSessionCacheMode::OFF);
        let mut chain = parsed(&self.cert, &read("certificate", &self.cert)?)?.into_iter();
        if let Some(own) = chain.next() {
            builder.set_certificate(&own)?;
        }
        for above in chain {
            builder.add_extra_chain_cert(above)?;
        }
        // Whoever starts a server is not there to type a password.
        let key = PKey::private_key_from_pem_callback(&read("private key", &self.key)?, |_| Ok(0))
            .map_err(|_| anyhow!("{}: there is no private key (PEM, without a password) in it", self.key.display()))?;
        builder
            .set_private_key(&key)
            .and_then(|()| builder.check_private_key())
            .map_err(|_| anyhow!("{} is not the key of {}", self.key.display(), self.cert.display()))?;
        if let Some(authorities) = &self.client_ca {
            for certificate in parsed(authorities, &read("authorities of clients", authorities)?)? {
                builder.add_client_ca(&certificate)?;
                builder.cert_store_mut().add_cert(certificate)?;
            }
            builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        }
        Ok(builder.build().into_context())
    }

    fn changed(&self) -> Vec<Option<SystemTime>> {
        let of = |path: &PathBuf| std::fs::metadata(path).and_then(|found| found.modified()).ok();
        [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten().map(of).collect()
    }
}

impl Tls {
    /// Agrees on keys with whoever connected, and says who that is where clients show certificates.
    ///
    /// # Errors
    /// The client does not speak TLS, takes too long, or is not one that is taken.
    pub(super) async fn accept(&self, stream: TcpStream) -> Result<(SslStream<TcpStream>, Option<VerifiedClient>)> {
        let mut stream = SslStream::new(Ssl::new(&self.context())?, stream)?;
        tokio::time::timeout(HANDSHAKE_MAX, Pin::new(&mut stream).accept())
            .await
            .map_err(|_| anyhow!("no handshake within {HANDSHAKE_MAX:?}"))??;
        // Without authorities nobody was asked for one.
        let client = stream.ssl().peer_certificate().filter(|_| self.files.client_ca.is_some());
        let client = client.and_then(|certificate| common_name(&certificate)).map(VerifiedClient::new);
        Ok((stream, client))
    }

    /// What is in use, after a look at the files now and then. What does not read leaves the last that did.
    fn context(&self) -> SslContext {
        let mut held = self.held();
        let now = self.clock.elapsed();
        if now.saturating_sub(held.looked_at) >= LOOK_EVERY {
            held.looked_at = now;
            let changed = self.files.changed();
            if changed != held.changed {
                match self.files.context() {
                    Ok(context) => {
                        tracing::info!(certificate = %self.files.cert.display(), "certificates read anew");
                        (held.context, held.changed) = (context, changed);
                    }
                    Err(error) => {
                        let error = format!("{error:#}");
                        tracing::error!(error, "the changed certificates do not read; those of before stay in use");
                    }
                }
            }
        }
        held.context.clone()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last common name of a certificate's subject, which is the most particular one.
fn common_name(certificate: &X509) -> Option<String> {
    let name = certificate.subject_name().entries_by_nid(Nid::COMMONNAME).last()?;
    // A name with a NUL in it is one thing to who signed it and another to who reads it.
    name.data().to_string().ok().filter(|text| !text.contains('\0'))
}
