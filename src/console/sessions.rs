//! Who is signed in, how it is known that a form is theirs, and how often anybody may try.
//!
//! A session is a signed cookie: whom it names, a number of its own and when it ends. Nothing of it is kept but what was
//! signed out, so consoles that share a key know each other's sessions. The signature covers the hash of the person's
//! token: with another token, or without the person in the file, their sessions are over.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hmac::{Hmac, Mac};
use rand_core::{OsRng, TryRngCore};
use sha2::{Digest as _, Sha256};

use super::operators::{Operators, Person};
use crate::event::Millis;

/// How long somebody stays signed in: a shift.
pub const SESSION_MS: Millis = 8 * 3_600_000;
/// Failed attempts to sign in that are looked at, a minute and address; more are refused unseen.
pub const FAILED_SIGN_INS_MAX: u32 = 10;
/// Actions of one person a minute.
pub const ACTIONS_MAX: u32 = 30;
/// The minute of both.
const RATE_EVERY: Duration = Duration::from_secs(60);
/// Most addresses or people that are counted by themselves; others are counted together.
const COUNTED_MAX: usize = 10_000;
/// Most sessions that are remembered as signed out; the one that would have ended first goes.
const SIGNED_OUT_MAX: usize = 10_000;
/// Longest cookie that is looked at.
const COOKIE_BYTES_MAX: usize = 512;

/// As long as a block of SHA-256, so that it is used as it is.
type Key = [u8; 64];

/// What signs and counts.
pub struct Sessions {
    key: Key,
    signed_out: Mutex<BTreeMap<String, Millis>>,
    failed: Mutex<Counts>,
    acted: Mutex<Counts>,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

type Counts = BTreeMap<String, (Duration, u32)>;

/// A session that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) person: Person,
    /// Its own number.
    pub(super) number: String,
    until: Millis,
}

impl Sessions {
    /// Under a key that consoles share, or one of chance, so that sessions end with the process.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn new(shared: Option<&[u8]>) -> Result<Sessions, String> {
        let key = match shared {
            Some(secret) => {
                let mut key = [0; 64];
                let digest =
                    Sha256::new().chain_update(b"portcullis console sessions|").chain_update(secret).finalize();
                key.iter_mut().zip(digest).for_each(|(of, byte)| *of = byte);
                key
            }
            None => random()?,
        };
        Ok(Sessions { key, signed_out: Mutex::default(), failed: Mutex::default(), acted: Mutex::default() })
    }

    /// A cookie's value for somebody.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub(super) fn issue(&self, person: &Person, now: Millis) -> Result<String, String> {
        let number = hex(&random::<16>()?);
        let payload = format!("1|{}|{number}|{}", person.name, now.saturating_add(SESSION_MS));
        let signature = hex(&self.signature(&payload, person).finalize().into_bytes());
        Ok(format!("{payload}|{signature}"))
    }

    /// The session that a cookie's value stands for.
    pub(super) fn open(&self, value: &str, operators: &Operators, now: Millis) -> Option<Session> {
        let (payload, signature) = value.rsplit_once('|').filter(|_| value.len() <= COOKIE_BYTES_MAX)?;
        let mut fields = payload.split('|');
        let (Some("1"), Some(name), Some(number), Some(until), None) =
            (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return None;
        };
        let person = operators.by_name(name).filter(|person| person.digest.is_some())?;
        self.signature(payload, person).verify_slice(&unhex(signature)?).ok()?;
        let until: Millis = until.parse().ok()?;
        let is_over = until <= now || lock(&self.signed_out).contains_key(number);
        (!is_over).then(|| Session { person: person.clone(), number: number.to_owned(), until })
    }

    /// Ends a session, here.
    pub(super) fn end(&self, session: &Session, now: Millis) {
        let mut signed_out = lock(&self.signed_out);
        signed_out.retain(|_, until| *until > now);
        signed_out.insert(session.number.clone(), session.until);
        if signed_out.len() > SIGNED_OUT_MAX {
            let first = signed_out.iter().min_by_key(|(_, until)| **until).map(|(number, _)| number.clone());
            first.and_then(|first| signed_out.remove(&first));
        }
    }

    /// What a form of a session carries, which no other page can know.
    pub(super) fn form_token(&self, of: &str) -> String {
        hex(&self.form_mac(of).finalize().into_bytes())
    }

    pub(super) fn is_form_token(&self, of: &str, presented: &str) -> bool {
        unhex(presented).is_some_and(|presented| self.form_mac(of).verify_slice(&presented).is_ok())
    }

    fn signature(&self, payload: &str, person: &Person) -> Hmac<Sha256> {
        let mut signature = mac(&self.key, b"session|");
        signature.update(payload.as_bytes());
        signature.update(&person.digest.unwrap_or_default());
        signature
    }

    fn form_mac(&self, of: &str) -> Hmac<Sha256> {
        let mut token = mac(&self.key, b"form|");
        token.update(of.as_bytes());
        token
    }

    /// Whether an address may try to sign in once more.
    pub(super) fn may_sign_in(&self, from: IpAddr, elapsed: Duration) -> bool {
        counted(&mut lock(&self.failed), &from.to_canonical().to_string(), elapsed, 0) < FAILED_SIGN_INS_MAX
    }

    /// An address has failed to sign in.
    pub(super) fn failed(&self, from: IpAddr, elapsed: Duration) {
        counted(&mut lock(&self.failed), &from.to_canonical().to_string(), elapsed, 1);
    }

    /// Whether somebody may act once more; counts it.
    pub(super) fn may_act(&self, name: &str, elapsed: Duration) -> bool {
        counted(&mut lock(&self.acted), name, elapsed, 1) <= ACTIONS_MAX
    }
}

/// How often within its minute, with `more`.
fn counted(counts: &mut Counts, of: &str, elapsed: Duration, more: u32) -> u32 {
    if counts.len() >= COUNTED_MAX && !counts.contains_key(of) {
        counts.retain(|_, (since, _)| elapsed.saturating_sub(*since) < RATE_EVERY);
    }
    let of = if counts.len() >= COUNTED_MAX && !counts.contains_key(of) { "" } else { of };
    let (since, count) = counts.entry(of.to_owned()).or_insert((elapsed, 0));
    if elapsed.saturating_sub(*since) >= RATE_EVERY {
        (*since, *count) = (elapsed, 0);
    }
    *count = count.saturating_add(more);
    *count
}

/// Sixteen hexadecimal digits that nobody guesses: the id of a command.
///
/// # Errors
/// The system gives no randomness.
pub(super) fn fresh_id() -> Result<String, String> {
    Ok(hex(&random::<8>()?))
}

fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    OsRng.try_fill_bytes(&mut bytes).map_err(|e| format!("no randomness from the system: {e}"))?;
    Ok(bytes)
}

fn mac(key: &Key, what: &[u8]) -> Hmac<Sha256> {
    let mut mac = <Hmac<Sha256> as Mac>::new(key.into());
    mac.update(what);
    mac
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _written = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) || text.len() > COOKIE_BYTES_MAX {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operators(name: &str, digit: char) -> Operators {
        let hash = digit.to_string().repeat(64);
        Operators::parse(&format!("people: [{{name: {name}, role: operator, token_sha256: \"{hash}\"}}]")).unwrap()
    }

    #[test]
    fn a_session_holds_until_its_end_and_under_its_key_alone() {
        let (sessions, ada) = (Sessions::new(None).unwrap(), operators("ada", '1'));
        let person = ada.by_name("ada").unwrap();
        let cookie = sessions.issue(person, 1_000).unwrap();
        let session = sessions.open(&cookie, &ada, 1_001).unwrap();
        assert_eq!(session.person, *person);
        assert!(sessions.open(&cookie, &ada, 1_000 + SESSION_MS).is_none());
        assert!(sessions.open(&cookie, &operators("ada", '2'), 1_001).is_none(), "her token is another one");
        assert!(sessions.open(&cookie, &operators("bob", '1'), 1_001).is_none(), "she is not in the file");
        assert!(Sessions::new(None).unwrap().open(&cookie, &ada, 1_001).is_none());
        for forged in [
            cookie.replace("ada", "bob"),
            cookie.replace("1|", "2|"),
            cookie.chars().rev().collect(),
            format!("{cookie}00"),
            cookie.rsplit_once('|').unwrap().0.to_owned(),
            format!("1|ada|x|{}|", i64::MAX),
            "é|".repeat(40),
            String::new(),
        ] {
            assert!(sessions.open(&forged, &ada, 1_001).is_none(), "{forged}");
        }
        sessions.end(&session, 1_002);
        assert!(sessions.open(&cookie, &ada, 1_003).is_none(), "she signed out");
    }

    #[test]
    fn consoles_that_share_a_key_know_each_others_sessions() {
        let [a, b] = [0, 1].map(|_| Sessions::new(Some(b"a secret of theirs")).unwrap());
        let ada = operators("ada", '1');
        let cookie = a.issue(ada.by_name("ada").unwrap(), 0).unwrap();
        let session = b.open(&cookie, &ada, 1).unwrap();
        assert!(b.is_form_token(&session.number, &a.form_token(&session.number)));
        assert!(!b.is_form_token(&session.number, &a.form_token("another")));
        assert!(!b.is_form_token(&session.number, ""));
        assert!(!b.is_form_token(&session.number, "zz"));
    }

    #[test]
    fn attempts_and_actions_are_bounded_and_so_is_what_is_counted() {
        let sessions = Sessions::new(None).unwrap();
        let (here, there) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let at = Duration::from_secs;
        for _ in 0..FAILED_SIGN_INS_MAX {
            assert!(sessions.may_sign_in(here, at(1)));
            sessions.failed(here, at(1));
        }
        assert!(!sessions.may_sign_in(here, at(60)) && sessions.may_sign_in(there, at(60)));
        assert!(sessions.may_sign_in(here, at(61)));
        let acted = (0..100).filter(|_| sessions.may_act("ada", at(5))).count();
        assert_eq!((acted, sessions.may_act("bob", at(5)), sessions.may_act("ada", at(65))), (30, true, true));
        let mut counts = Counts::new();
        for n in 0..COUNTED_MAX + 50 {
            counted(&mut counts, &n.to_string(), at(1), 1);
        }
        assert_eq!((counts.len(), counted(&mut counts, "one more", at(1), 0)), (COUNTED_MAX + 1, 50));
    }
}
