//! Who may ask: keys of a file, and how often each may ask about an account.
//!
//! ```text
//! # name: key, one a line
//! nginx-1: 3f0c9a…
//! ```

use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::event::Millis;

/// Most keys of one server.
pub const KEYS_MAX: usize = 1_000;
/// Shortest key, in characters.
const KEY_LENGTH_MIN: usize = 16;
const NAME_BYTES_MAX: usize = 63;

/// The keys of a server, by their hashes.
#[derive(Debug)]
pub struct Keys {
    keys: Vec<Key>,
    rate: Rate,
}

#[derive(Debug)]
struct Key {
    name: String,
    digest: [u8; 32],
    bucket: Mutex<Bucket>,
}

/// How many answers that name an account one key may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Per second, on average; twice as many at once.
    pub per_second: u32,
}

/// What a key may still ask.
#[derive(Debug)]
struct Bucket {
    /// In thousandths of an answer.
    left: i64,
    filled_at: Millis,
}

impl Keys {
    /// Reads a file of keys.
    ///
    /// # Errors
    /// What is wrong, with its line; no key is repeated.
    pub fn parse(text: &str, rate: Rate) -> Result<Keys, String> {
        let mut keys: Vec<Key> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |what: &str| Err(format!("line {}: {what}", index + 1));
            let Some((name, key)) = line.split_once(':') else { return wrong("write `name: key`") };
            let (name, key) = (name.trim(), key.trim());
            let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(is_plain) {
                return wrong("a name has 1 to 63 letters, digits, `-`, `_`, `.`");
            }
            if key.chars().count() < KEY_LENGTH_MIN || !key.chars().all(|c| c.is_ascii_graphic()) {
                return wrong(
                    "a key has 16 printable characters or more, without spaces; make one with `openssl rand -hex 32`",
                );
            }
            let digest = digest_of(key.as_bytes());
            if keys.iter().any(|other| other.name == name || other.digest == digest) {
                return wrong("this name or key stands above already");
            }
            if keys.len() >= KEYS_MAX {
                return wrong("there are more than 1,000 keys");
            }
            let bucket = Mutex::new(Bucket { left: rate.burst(), filled_at: Millis::MIN });
            keys.push(Key { name: name.to_owned(), digest, bucket });
        }
        if keys.is_empty() {
            return Err("there is no key in it; write one a line, as `name: key`".to_owned());
        }
        Ok(Keys { keys, rate })
    }

    /// Which key this is. How long it takes says nothing about the keys that there are.
    #[must_use]
    pub fn find(&self, presented: &[u8]) -> Option<usize> {
        let digest = digest_of(presented);
        let mut found = None;
        for (index, key) in self.keys.iter().enumerate() {
            let differs = key.digest.iter().zip(digest).fold(0, |all, (a, b)| all | (a ^ b));
            if differs == 0 {
                found = Some(index);
            }
        }
        found
    }

    /// The key of a name, for a client whose name was verified otherwise.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<usize> {
        self.keys.iter().position(|key| key.name == name)
    }

    /// The name of a key that was found.
    #[must_use]
    pub fn name(&self, key: usize) -> &str {
        self.keys.get(key).map_or("", |key| &key.name)
    }

    /// Whether a key may ask about one more account at `now`.
    #[must_use]
    pub fn may_name_an_account(&self, key: usize, now: Millis) -> bool {
        let Some(key) = self.keys.get(key) else { return false };
        key.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(self.rate, now)
    }

    #[must_use]
    pub const fn len(&self) -> usize {
        self.keys.len()
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl Rate {
    /// In thousandths.
    const fn burst(self) -> i64 {
        self.per_second as i64 * 2_000
    }
}

impl Bucket {
    fn take(&mut self, rate: Rate, now: Millis) -> bool {
        // One answer a second and key is a thousandth a millisecond.
        let passed = now.saturating_sub(self.filled_at).max(0);
        let gained = passed.saturating_mul(i64::from(rate.per_second));
        self.left = self.left.saturating_add(gained).min(rate.burst());
        self.filled_at = now;
        let may = self.left >= 1_000;
        if may {
            self.left -= 1_000;
        }
        may
    }
}

fn digest_of(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10 };

    #[test]
    fn keys_are_found_and_nothing_else_is() {
        let text = "# of the edge\n\nnginx-1: 0123456789abcdef\n  login : fedcba9876543210:x \n";
        let keys = Keys::parse(text, RATE).unwrap();
        assert_eq!(keys.len(), 2);
        assert_eq!(keys.find(b"0123456789abcdef").map(|key| keys.name(key)), Some("nginx-1"));
        assert_eq!(keys.find(b"fedcba9876543210:x").map(|key| keys.name(key)), Some("login"));
        for wrong in ["", "0123456789abcde", "0123456789abcdef ", "0123456789ABCDEF", "nginx-1"] {
            assert_eq!(keys.find(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn a_wrong_file_is_told_with_its_line_and_without_its_keys() {
        for (text, what) in [
            ("", "no key"),
            ("# nothing\n", "no key"),
            ("\nnginx 0123456789abcdef", "line 2: write `name: key`"),
            ("a: short", "line 1: a key has 16"),
            ("a: 0123456789abcdef\na: fedcba9876543210", "line 2: this name or key"),
            ("a: 0123456789abcdef\nb: 0123456789abcdef", "line 2: this name or key"),
            ("a: 0123456789 abcdef", "line 1: a key has 16"),
            (": 0123456789abcdef", "line 1: a name has"),
        ] {
            let error = Keys::parse(text, RATE).unwrap_err();
            assert!(error.contains(what) && !error.contains("0123456789"), "{text}: {error}");
        }
    }

    #[test]
    fn a_key_may_name_so_many_accounts_a_second() {
        let keys = Keys::parse("a: 0123456789abcdef\nb: fedcba9876543210", RATE).unwrap();
        let ask = |key, now| (0..100).filter(|_| keys.may_name_an_account(key, now)).count();
        assert_eq!(ask(0, 1_000), 20);
        assert_eq!(ask(0, 1_050), 0);
        assert_eq!(ask(0, 1_100), 1);
        assert_eq!(ask(1, 1_100), 20, "another key has its own");
        assert_eq!(ask(0, 9_000), 20);
        assert_eq!(ask(0, 0), 0, "a clock that is set back gives nothing");
        assert!(!keys.may_name_an_account(7, 9_000));
    }
}
