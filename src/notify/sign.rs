//! The signature of a webhook, as the specification Standard Webhooks has it, so that libraries which know it can check
//! ours: HMAC-SHA256 over `id.timestamp.body`, in base64, behind `v1,`. <https://www.standardwebhooks.com>

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// What stands before a key that is written in base64.
const PREFIX: &str = "whsec_";
/// Shortest key, in bytes, and most keys at once: one that goes, one that comes.
pub const KEY_BYTES_MIN: usize = 16;
pub const KEYS_MAX: usize = 4;

/// The keys of one receiver. No log shows them.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys(Vec<Vec<u8>>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(***)")
    }
}

impl Keys {
    /// Reads one key a line: `whsec_` and base64, or any text.
    ///
    /// # Errors
    /// What is wrong, in which line.
    pub fn parse(text: &str) -> Result<Keys, String> {
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let key = match line.strip_prefix(PREFIX) {
                Some(rest) => STANDARD
                    .decode(rest)
                    .map_err(|_| format!("line {}: what follows {PREFIX} is no base64", index + 1))?,
                None => line.as_bytes().to_vec(),
            };
            if key.len() < KEY_BYTES_MIN {
                return Err(format!(
                    "line {}: {} bytes are too few for a key; make one with `echo whsec_$(openssl rand -base64 32)`",
                    index + 1,
                    key.len()
                ));
            }
            keys.push(key);
        }
        match keys.len() {
            0 => Err("there is no key; make one with `echo whsec_$(openssl rand -base64 32)`".to_owned()),
            n if n > KEYS_MAX => Err(format!("{n} keys are more than {KEYS_MAX}")),
            _ => Ok(Keys(keys)),
        }
    }

    /// The value of the header `webhook-signature`: one signature by each key. `seconds` is that of `webhook-timestamp`.
    #[must_use]
    pub fn sign(&self, id: &str, seconds: i64, body: &str) -> String {
        let signed: Vec<String> = self
            .0
            .iter()
            .filter_map(|key| {
                // A key of any length is one for HMAC.
                let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
                mac.update(format!("{id}.{seconds}.{body}").as_bytes());
                Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
            })
            .collect();
        signed.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those of the specification's own test suite.
    #[test]
    fn a_signature_is_that_of_the_specification() {
        let keys = Keys::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let signature = keys.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, "{\"test\": 2432232314}");
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn two_keys_sign_side_by_side() {
        let keys = Keys::parse("an old key of the receiver\n\na new key of the receiver\n").unwrap();
        let signature = keys.sign("id", 1, "body");
        assert_eq!(signature.split(' ').filter(|one| one.starts_with("v1,")).count(), 2);
        assert_eq!(format!("{keys:?}"), "Keys(***)");
    }

    #[test]
    fn what_is_no_key_is_told_with_its_line() {
        for (text, told) in [
            ("", "there is no key"),
            ("short", "line 1: 5 bytes"),
            ("a key that is long enough\nwhsec_!!", "line 2: what follows"),
            (
                "a key that is long\nb key that is long\nc key that is long\nd key that is long\ne key that is long",
                "5 keys",
            ),
        ] {
            let error = Keys::parse(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
