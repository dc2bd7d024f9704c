//! What the thread that takes records and those that answer share.
//!
//! The lists and the decisions have a lock each, so that a question never waits for a bouncer that is given everything.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use axum::http::{HeaderMap, HeaderName, header};
use base64::Engine as _;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::bouncers::{Bouncer, Bouncers};
use super::decisions::{Decision, Decisions};
use super::events::LISTENERS_MAX;
use super::stops::Stops;
use super::{Answer, Asked, Keys, Lists, Question, Told, TrustedProxies, Verdict, check};
use crate::edge::Standing;
use crate::event::{AttackState, AttackStatus, BlocklistEntry, ChallengePolicy, LoginEvent, Millis, Source};
use crate::topology::networks::CurrentNetworks;
use crate::window::HashKey;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Set by [`super::client::verified`] alone, which takes away what a client wrote there.
pub(super) const VERIFIED: HeaderName = HeaderName::from_static("x-portcullis-verified");
pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Most lists that are written at a time; a whole one may take tens of megabytes. Others wait.
pub const WRITING_MAX: usize = 4;

/// How a server answers.
pub struct ServerOptions {
    pub keys: Keys,
    pub proxies: TrustedProxies,
    /// That of the job, under which pairs are known.
    pub hash_key: HashKey,
    /// Whether a denied `GET` is let through with its verdict when the question does not say.
    pub stealth: bool,
    /// Whether what is denied is summed up, to be published.
    pub report_stops: bool,
    /// Where addresses are looked up, as the files say it now.
    pub networks: Arc<CurrentNetworks>,
    /// The clock of the process.
    pub clock: Box<dyn Fn() -> Millis + Send + Sync>,
}

/// What the thread that takes records and those that answer share.
pub struct Server {
    lists: RwLock<Lists>,
    decisions: RwLock<Decisions>,
    bouncers: Mutex<Bouncers>,
    stops: Mutex<Stops>,
    /// Changes with every status that is told; gone when the server stops.
    told: Mutex<Option<watch::Sender<u64>>>,
    room: Arc<Semaphore>,
    writing: Arc<Semaphore>,
    is_ready: AtomicBool,
    pub(super) options: ServerOptions,
    counts: Counts,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("is_ready", &self.is_ready).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ServerOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerOptions").field("proxies", &self.proxies).finish_non_exhaustive()
    }
}

/// Since the start.
#[derive(Debug, Default)]
struct Counts {
    allowed: AtomicU64,
    challenged: AtomicU64,
    denied: AtomicU64,
    without_client: AtomicU64,
    not_ready: AtomicU64,
    without_key: AtomicU64,
    not_understood: AtomicU64,
    over_rate: AtomicU64,
}

/// How a server stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EdgeStatus {
    pub is_ready: bool,
    /// Entries held, ended and exempted ones included.
    pub entries: usize,
    pub entries_refused: u64,
    /// Records of the other topics that could not be used.
    pub records_refused: u64,
    pub known_pairs: usize,
    /// Pairs that were not taken because too many are held.
    pub known_pairs_refused: u64,
    pub allowed: u64,
    pub challenged: u64,
    pub denied: u64,
    /// Answered questions about nobody's address, or about one that is never blocked, as a proxy's own is: some proxy does
    /// not say whom it asks about.
    pub without_client: u64,
    /// Denied attempts that are not published because too many sources came at a time.
    pub stops_untold: u64,
    /// Questions that came before the topics were read.
    pub not_ready: u64,
    pub without_key: u64,
    pub not_understood: u64,
    /// Questions about accounts beyond what their key may ask.
    pub over_rate: u64,
    /// What bouncers say that they stopped, since the start.
    pub dropped_by_bouncers: u64,
    /// Bouncers of which most was heard lately, by key and address.
    pub bouncers: Vec<Bouncer>,
}

/// Why a question is not answered.
#[derive(Debug)]
pub(super) enum Fault {
    NotReady,
    NoKey,
    NotUnderstood(String),
    OverRate,
}

impl Server {
    #[must_use]
    pub fn new(lists: Lists, options: ServerOptions) -> Self {
        Server {
            lists: RwLock::new(lists),
            decisions: RwLock::default(),
            bouncers: Mutex::default(),
            stops: Mutex::default(),
            told: Mutex::new(Some(watch::channel(0).0)),
            room: Arc::new(Semaphore::new(LISTENERS_MAX)),
            writing: Arc::new(Semaphore::new(WRITING_MAX)),
            is_ready: AtomicBool::new(false),
            options,
            counts: Counts::default(),
        }
    }

    /// Takes one record of `blocklist` that was written at `told_at`; `generation` is the header of a tombstone.
    pub fn take_block(&self, key: &[u8], value: Option<&[u8]>, generation: Option<i64>, told_at: Millis) {
        let told = self.lists_mut().block(key, value, generation);
        if let (Told::Entry, Ok(key)) = (told, std::str::from_utf8(key)) {
            let now = self.now();
            let lists = self.lists();
            let entry = lists.desired().get(key);
            let decision = entry.and_then(|entry| decision_on(&lists, entry, now));
            let gone_at = entry.and_then(|entry| entry.until).unwrap_or(told_at).min(now);
            if let Some((tenant, scope, value)) = lists.decided(key) {
                self.decisions_mut().set(tenant, scope, value, decision, gone_at, now);
            }
        }
    }

    /// Takes one record of `exemptions`.
    pub fn take_exemption(&self, key: &[u8], value: Option<&[u8]>) {
        let told = self.lists_mut().exempt(key, value);
        if told == Told::Exemptions {
            self.decide_all(self.now());
        }
    }

    /// Takes one record of `attack-status`.
    pub fn take_status(&self, key: &[u8], value: Option<&[u8]>) {
        self.lists_mut().status(key, value);
        if let Some(told) = &*self.told.lock().unwrap_or_else(PoisonError::into_inner) {
            told.send_modify(|number| *number += 1);
        }
    }

    /// The attack status of a tenant that holds now; CALM when nothing is said, or nothing any more.
    pub(super) fn status_of(&self, tenant: &str) -> AttackStatus {
        let now = self.now();
        self.lists().status_of(tenant, now).cloned().unwrap_or_else(|| calm(tenant, now))
    }

    /// What changes whenever a status is told; closed when the server stops.
    pub(super) fn told(&self) -> watch::Receiver<u64> {
        match &*self.told.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(told) => told.subscribe(),
            None => watch::channel(0).1,
        }
    }

    /// Writes a list on a thread where no question waits for it; nothing when the writing panicked.
    pub(super) async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        list: impl FnOnce(&Server) -> T + Send + 'static,
    ) -> Option<T> {
        let writing = Arc::clone(&self.writing).acquire_owned().await.ok()?;
        let server = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || {
            let _writing = writing;
            list(&server)
        });
        written.await.ok()
    }

    /// Room for one more listener.
    pub(super) fn room_to_listen(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.room).try_acquire_owned().ok()
    }

    /// Nobody waits for news any more, so that the server can end.
    pub fn close(&self) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Takes one record of `known-pairs`.
    pub fn take_pair(&self, key: &[u8], value: Option<&[u8]>) {
        self.lists_mut().pair(key, value);
    }

    /// Does what is due since the call before, at `before`; `turn` is another number at every call.
    pub fn tick(&self, turn: usize, before: Millis, now: Millis) {
        let exemptions_end = self.lists().desired().exemptions().next_end(before);
        if exemptions_end.is_some_and(|end| end <= now) {
            self.decide_all(now);
        }
        let networks = self.options.networks.get();
        let mut lists = self.lists_mut();
        lists.turn_to(&networks, now);
        lists.forget(turn, now);
        drop(lists);
        self.decisions_mut().advance(now);
    }

    /// Decides anew about every entry.
    fn decide_all(&self, now: Millis) {
        let lists = self.lists();
        let mut decisions = self.decisions_mut();
        for (key, entry) in lists.desired().entries() {
            if let Some((tenant, scope, value)) = lists.decided(key) {
                let gone_at = entry.until.unwrap_or(now).min(now);
                decisions.set(tenant, scope, value, decision_on(&lists, entry, now), gone_at, now);
            }
        }
    }

    /// Every topic was read to the end that it had at start: from here on questions are answered.
    pub fn caught_up(&self) {
        self.lists_mut().turn_to(&self.options.networks.get(), self.now());
        self.is_ready.store(true, Ordering::Release);
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Acquire)
    }

    #[must_use]
    pub fn status(&self) -> EdgeStatus {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (lists, bouncers, counts) = (self.lists(), self.bouncers(), &self.counts);
        EdgeStatus {
            is_ready: self.is_ready(),
            entries: lists.desired().len(),
            entries_refused: lists.desired().refused().values().sum(),
            records_refused: lists.records_refused(),
            known_pairs: lists.known().len(),
            known_pairs_refused: lists.known().refused(),
            allowed: count(&counts.allowed),
            challenged: count(&counts.challenged),
            denied: count(&counts.denied),
            without_client: count(&counts.without_client),
            stops_untold: self.stops().untold(),
            not_ready: count(&counts.not_ready),
            without_key: count(&counts.without_key),
            not_understood: count(&counts.not_understood),
            over_rate: count(&counts.over_rate),
            dropped_by_bouncers: bouncers.dropped(),
            bouncers: bouncers.latest(),
        }
    }

    pub(super) fn lists(&self) -> RwLockReadGuard<'_, Lists> {
        self.lists.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lists_mut(&self) -> RwLockWriteGuard<'_, Lists> {
        self.lists.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever holds this and the lists took the lists first.
    pub(super) fn decisions(&self) -> RwLockReadGuard<'_, Decisions> {
        self.decisions.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn decisions_mut(&self) -> RwLockWriteGuard<'_, Decisions> {
        self.decisions.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn bouncers(&self) -> MutexGuard<'_, Bouncers> {
        self.bouncers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stops(&self) -> MutexGuard<'_, Stops> {
        self.stops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At most `most` events of what was denied and is not told yet; `prefix` and `number` make their ids.
    pub fn stopped(&self, most: usize, prefix: &str, number: &mut u64) -> Vec<LoginEvent> {
        self.stops().tell(most, prefix, number, self.now())
    }

    pub(super) fn now(&self) -> Millis {
        (self.options.clock)()
    }

    /// The key of a request, shown or that of a name which a certificate proves, and whether anything can be answered yet.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<usize, Fault> {
        let presented =
            headers.get(API_KEY).map(|key| key.as_bytes().to_vec()).or_else(|| key_of_authorization(headers));
        let keys = &self.options.keys;
        let key = match (presented, headers.get(VERIFIED)) {
            (Some(presented), _) => keys.find(&presented),
            (None, Some(name)) => name.to_str().ok().and_then(|name| keys.named(name)),
            (None, None) => None,
        };
        let key = key.ok_or(Fault::NoKey)?;
        if self.is_ready() { Ok(key) } else { Err(Fault::NotReady) }
    }

    /// The client of a request, by what trusted proxies say.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
        // What is not text is no address either.
        let lines = headers.get_all(FORWARDED_FOR).iter().map(|line| line.to_str().unwrap_or("?"));
        self.options.proxies.client(peer, lines)
    }

    pub(super) fn answer(&self, peer: IpAddr, headers: &HeaderMap, question: &Question) -> Result<Answer, Fault> {
        let key = self.admit(headers)?;
        let now = self.now();
        if question.account.is_some() && !self.options.keys.may_name_an_account(key, now) {
            return Err(Fault::OverRate);
        }
        let lists = self.lists();
        let tenant = tenant_of(&lists, question.tenant.as_deref())?;
        let address = self.client(peer, headers);
        let asked = Asked::new(tenant, address, question).map_err(Fault::NotUnderstood)?;
        let answer = check(&lists, &self.options.hash_key, &asked, now);
        if let (Verdict::Deny, Some(source), true) = (answer.verdict, asked.source, self.options.report_stops) {
            self.stops().note(tenant, source, asked.account.as_deref());
        }
        let count = match answer.verdict {
            Verdict::Allow => &self.counts.allowed,
            Verdict::Challenge => &self.counts.challenged,
            Verdict::Deny => &self.counts.denied,
        };
        count.fetch_add(1, Ordering::Relaxed);
        if !asked.source.is_some_and(Source::is_blockable) {
            self.counts.without_client.fetch_add(1, Ordering::Relaxed);
        }
        Ok(answer)
    }

    pub(super) fn count(&self, fault: &Fault) {
        let count = match fault {
            Fault::NotReady => &self.counts.not_ready,
            Fault::NoKey => &self.counts.without_key,
            Fault::NotUnderstood(_) => &self.counts.not_understood,
            Fault::OverRate => &self.counts.over_rate,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// The key in `Authorization`: a bearer's token, or the password of whatever user, which is all that some appliances can
/// send.
fn key_of_authorization(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    if let Some(token) = value.strip_prefix(b"Bearer ") {
        return Some(token.to_vec());
    }
    let pair = base64::prelude::BASE64_STANDARD.decode(value.strip_prefix(b"Basic ")?).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

/// The tenant that is asked about: the one that is named, else the only one.
pub(super) fn tenant_of<'a>(lists: &'a Lists, named: Option<&'a str>) -> Result<&'a str, Fault> {
    let wrong = |what: &str| Fault::NotUnderstood(what.to_owned());
    match named.or_else(|| lists.tenant()) {
        Some(tenant) if lists.serves(tenant) => Ok(tenant),
        Some(_) => Err(wrong("tenant: this server answers for another one")),
        None => Err(wrong("tenant: this server has several; say which")),
    }
}

/// What holds for a tenant of which nothing is said, or nothing any more.
fn calm(tenant: &str, now: Millis) -> AttackStatus {
    AttackStatus {
        tenant: tenant.to_owned(),
        state: AttackState::Calm,
        since: now,
        updated_at: now,
        expires_at: now,
        challenge: ChallengePolicy::Nobody,
        bad_to_good: 0.0,
        attempts_per_second: 0.0,
        failure_share: 0.0,
        usual_failure_share: 0.0,
        traits: Vec::new(),
        incident_id: None,
        withdrawn: Vec::new(),
        entered_bad_to_good: 0.0,
    }
}

/// What an entry says to a list that all served tenants share; nothing when it ended or somebody exempt would be
/// restricted.
fn decision_on(lists: &Lists, entry: &BlocklistEntry, now: Millis) -> Option<Decision> {
    (lists.desired().standing_shared(entry, now) == Standing::Enforced).then(|| Decision::of(entry))
}
