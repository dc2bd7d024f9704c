//! Signed requests: `X-Portcullis-Signature: t=SECONDS,v1=HEX`, where HEX is HMAC-SHA256 of `SECONDS`, a full stop and
//! the body, under the secret of the source.

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::event::Millis;

/// How far the time of a signature may be from this machine's, in milliseconds: older ones may be somebody's recording.
pub(super) const SKEW_MAX_MS: Millis = 300_000;
/// Most signatures in one header, so that two secrets can be in use while one follows the other.
const SIGNATURES_MAX: usize = 4;

/// What the header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Signature {
    /// As written, since exactly this is signed.
    seconds: String,
    at: Millis,
    digests: Vec<[u8; 32]>,
}

impl Signature {
    /// Reads the header.
    pub(super) fn parse(header: &str) -> Option<Signature> {
        let (mut seconds, mut digests) = (None, Vec::new());
        for part in header.split(',') {
            match part.trim().split_once('=')? {
                ("t", text) => seconds = Some(text.to_owned()),
                ("v1", text) if digests.len() < SIGNATURES_MAX => digests.push(digest(text)?),
                // Of a version to come.
                _ => {}
            }
        }
        let seconds = seconds?;
        let is_plain = !seconds.is_empty() && seconds.bytes().all(|b| b.is_ascii_digit());
        let at = seconds.parse::<Millis>().ok().filter(|_| is_plain)?.checked_mul(1_000)?;
        (!digests.is_empty()).then_some(Signature { seconds, at, digests })
    }

    /// Whether it is of about now.
    pub(super) const fn is_fresh(&self, now: Millis) -> bool {
        now.abs_diff(self.at) <= SKEW_MAX_MS.unsigned_abs()
    }

    /// Whether one of these secrets signed this body. How long it takes says nothing about the secret.
    pub(super) fn is_of(&self, secrets: &[Vec<u8>], body: &[u8]) -> bool {
        let mut found = false;
        for secret in secrets {
            let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { continue };
            mac.update(self.seconds.as_bytes());
            mac.update(b".");
            mac.update(body);
            for digest in &self.digests {
                found |= mac.clone().verify_slice(digest).is_ok();
            }
        }
        found
    }
}

/// 64 hexadecimal digits.
pub(super) fn digest(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut digest = [0; 32];
    for (index, byte) in digest.iter_mut().enumerate() {
        let digits = text.get(2 * index..2 * index + 2)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    // printf '1561682490.{"a":1}' | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
    const SIGNED: &str = "9a5440ba4728c03a8688ecee085aa260ebcccb00b4d9ba80c2b3de8a5269ff68";

    fn signed() -> Signature {
        Signature::parse(&format!("t=1561682490,v1={SIGNED}")).unwrap()
    }

    #[test]
    fn what_openssl_signs_is_signed() {
        let secret = b"0123456789abcdef0123456789abcdef".to_vec();
        assert!(signed().is_of(&[b"another".to_vec(), secret.clone()], br#"{"a":1}"#));
        assert!(!signed().is_of(std::slice::from_ref(&secret), br#"{"a":2}"#));
        assert!(!signed().is_of(&[b"another".to_vec()], br#"{"a":1}"#));
        assert!(!signed().is_of(&[], br#"{"a":1}"#));
        let later = Signature::parse(&format!("t=1561682491,v1={SIGNED}")).unwrap();
        assert!(!later.is_of(&[secret], br#"{"a":1}"#));
    }

    #[test]
    fn a_signature_holds_for_five_minutes() {
        let at = 1_561_682_490_000;
        for (now, fresh) in
            [(at, true), (at + SKEW_MAX_MS, true), (at - SKEW_MAX_MS, true), (at + SKEW_MAX_MS + 1, false)]
        {
            assert_eq!(signed().is_fresh(now), fresh, "{now}");
        }
    }

    #[test]
    fn what_is_no_signature_is_none() {
        for header in ["", "t=1", "v1=00", "t=,v1=", "t=-1", "t=1,v1=zz", "1", "t=99999999999999999999,v1=00", "=,="] {
            assert_eq!(Signature::parse(header), None, "{header}");
        }
        let odd = format!("t=x,v1={SIGNED}");
        assert_eq!(Signature::parse(&odd), None);
    }
}
