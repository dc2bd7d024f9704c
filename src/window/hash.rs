//! The keyed hash under which everything an attacker chooses enters a sketch, a fingerprint or a bucket.

use std::fmt;
use std::hash::Hasher;

use siphasher::sip::SipHasher13;
use siphasher::sip128::{Hasher128, SipHasher13 as WideSipHasher13};

/// A secret of the installation. Without it an attacker could choose names that collide, or that all fall into one
/// partition. Changing it makes the state unreadable; [`HashKey::id`] stands in the state to notice that.
#[derive(Clone, PartialEq, Eq)]
pub struct HashKey([u8; 16]);

/// A keyed 64-bit hash.
pub type Hashed = u64;

impl HashKey {
    #[must_use]
    pub const fn new(secret: [u8; 16]) -> Self {
        HashKey(secret)
    }

    /// What may be written down about the key.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.hash(0xff, &[b"key id"])
    }

    /// Hashes parts; `domain` keeps uses apart, and the lengths keep `("ab","c")` from being `("a","bc")`.
    #[must_use]
    pub fn hash(&self, domain: u8, parts: &[&[u8]]) -> Hashed {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        write(&mut hasher, domain, parts);
        hasher.finish()
    }

    /// As [`HashKey::hash`], with 128 bits: for a name that must be nobody else's among millions.
    #[must_use]
    pub fn hash_wide(&self, domain: u8, parts: &[&[u8]]) -> u128 {
        let mut hasher = WideSipHasher13::new_with_key(&self.0);
        write(&mut hasher, domain, parts);
        hasher.finish128().as_u128()
    }
}

fn write(hasher: &mut impl Hasher, domain: u8, parts: &[&[u8]]) {
    hasher.write_u8(domain);
    for part in parts {
        hasher.write_u32(part.len() as u32);
        hasher.write(part);
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(***)")
    }
}
