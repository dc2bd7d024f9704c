//! HTTP around the lists.
//!
//! | route | answers |
//! | --- | --- |
//! | `GET /v1/check?tenant=&ip=&account=&device=…` | 200 allow or challenge, 403 deny, in headers; for a proxy or a page |
//! | `GET /v1/check/{tenant}/…` | the same about the request's client alone; for proxies that append the client's path |
//! | `POST /v1/check` with the same as JSON | 200 with the whole answer; for a login page |
//! | `GET /v1/attack-status/{tenant}` | the attack status in force |
//!
//! A `GET` that cannot be answered (no key, a question that makes no sense, lists that are not read yet, too many
//! questions) is answered with 5xx: proxies take every 4xx for a deny, and a fault on this side must lock nobody out. A
//! `POST` is answered with 400, 401, 429 or 503 then.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;

use super::{Answer, Keys, Lists, Question, Told, TrustedProxies, Verdict, check};
use crate::event::{AttackState, AttackStatus, ChallengePolicy, Millis};

/// Largest body of a question, in bytes.
const QUESTION_BYTES_MAX: usize = 64 << 10;

const VERDICT: HeaderName = HeaderName::from_static("x-portcullis-verdict");
const ACTION: HeaderName = HeaderName::from_static("x-portcullis-action");
const ATTACK: HeaderName = HeaderName::from_static("x-portcullis-attack");
const KNOWN: HeaderName = HeaderName::from_static("x-portcullis-known");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// How a server answers.
pub struct ServerOptions {
    pub keys: Keys,
    pub proxies: TrustedProxies,
    /// Whether a denied `GET` is let through with its verdict when the question does not say.
    pub stealth: bool,
    /// The clock of the process.
    pub clock: Box<dyn Fn() -> Millis + Send + Sync>,
}

/// What the thread that takes records and those that answer share.
pub struct Server {
    lists: RwLock<Lists>,
    is_ready: AtomicBool,
    options: ServerOptions,
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
    /// Questions that came before the topics were read.
    pub not_ready: u64,
    pub without_key: u64,
    pub not_understood: u64,
    /// Questions about accounts beyond what their key may ask.
    pub over_rate: u64,
}

/// Why a question is not answered.
#[derive(Debug)]
enum Fault {
    NotReady,
    NoKey,
    NotUnderstood(String),
    OverRate,
}

impl Server {
    #[must_use]
    pub fn new(lists: Lists, options: ServerOptions) -> Self {
        Server { lists: RwLock::new(lists), is_ready: AtomicBool::new(false), options, counts: Counts::default() }
    }

    /// Takes something that changes the lists.
    pub fn take(&self, change: impl FnOnce(&mut Lists) -> Told) -> Told {
        change(&mut self.lists.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets go of what ended a while ago.
    pub fn forget_ended(&self, now: Millis) {
        self.lists.write().unwrap_or_else(PoisonError::into_inner).forget_ended(now);
    }

    /// Every topic was read to the end that it had at start: from here on questions are answered.
    pub fn caught_up(&self) {
        self.is_ready.store(true, Ordering::Release);
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Acquire)
    }

    #[must_use]
    pub fn status(&self) -> EdgeStatus {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (lists, counts) = (self.lists(), &self.counts);
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
            not_ready: count(&counts.not_ready),
            without_key: count(&counts.without_key),
            not_understood: count(&counts.not_understood),
            over_rate: count(&counts.over_rate),
        }
    }

    fn lists(&self) -> RwLockReadGuard<'_, Lists> {
        self.lists.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Millis {
        (self.options.clock)()
    }

    /// The key of a request, and whether anything can be answered yet.
    fn admit(&self, headers: &HeaderMap) -> Result<usize, Fault> {
        let bearer = || headers.get(header::AUTHORIZATION)?.as_bytes().strip_prefix(b"Bearer ");
        let presented = headers.get(API_KEY).map(HeaderValue::as_bytes).or_else(bearer);
        let key = presented.and_then(|presented| self.options.keys.find(presented)).ok_or(Fault::NoKey)?;
        if self.is_ready() { Ok(key) } else { Err(Fault::NotReady) }
    }

    /// The client of a request, by what trusted proxies say.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
        // What is not text is no address either.
        let lines = headers.get_all(FORWARDED_FOR).iter().map(|line| line.to_str().unwrap_or("?"));
        self.options.proxies.client(peer, lines)
    }

    fn answer(&self, peer: IpAddr, headers: &HeaderMap, question: &Question) -> Result<Answer, Fault> {
        let key = self.admit(headers)?;
        let now = self.now();
        if question.account.is_some() && !self.options.keys.may_name_an_account(key, now) {
            return Err(Fault::OverRate);
        }
        let lists = self.lists();
        let tenant = tenant_of(&lists, question.tenant.as_deref())?;
        let address = self.client(peer, headers);
        let answer = check(&lists, tenant, address, question, now).map_err(Fault::NotUnderstood)?;
        let count = match answer.verdict {
            Verdict::Allow => &self.counts.allowed,
            Verdict::Challenge => &self.counts.challenged,
            Verdict::Deny => &self.counts.denied,
        };
        count.fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }

    fn count(&self, fault: &Fault) {
        let count = match fault {
            Fault::NotReady => &self.counts.not_ready,
            Fault::NoKey => &self.counts.without_key,
            Fault::NotUnderstood(_) => &self.counts.not_understood,
            Fault::OverRate => &self.counts.over_rate,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// The tenant that is asked about: the one that is named, else the only one.
fn tenant_of<'a>(lists: &'a Lists, named: Option<&'a str>) -> Result<&'a str, Fault> {
    let wrong = |what: &str| Fault::NotUnderstood(what.to_owned());
    match named.or_else(|| lists.tenant()) {
        Some(tenant) if lists.serves(tenant) => Ok(tenant),
        Some(_) => Err(wrong("tenant: this server answers for another one")),
        None => Err(wrong("tenant: this server has several; say which")),
    }
}

/// Everything that is asked over HTTP.
pub fn routes(server: Arc<Server>) -> Router {
    let check = get(check_by_query).post(check_by_body).layer(DefaultBodyLimit::max(QUESTION_BYTES_MAX));
    Router::new()
        .route("/v1/check", check)
        .route("/v1/check/{tenant}", get(check_client))
        .route("/v1/check/{tenant}/{*path}", get(check_client_behind_a_path))
        .route("/v1/attack-status/{tenant}", get(attack_status))
        .with_state(server)
}

type Peer = ConnectInfo<SocketAddr>;
type Shared = State<Arc<Server>>;

async fn check_by_query(
    State(server): Shared,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
    question: Result<Query<Question>, QueryRejection>,
) -> Response {
    match question {
        Ok(Query(question)) => server.to_proxy(peer.ip(), &headers, &question),
        Err(rejection) => server.fault_to_proxy(&Fault::NotUnderstood(rejection.body_text())),
    }
}

/// The path behind the tenant and the query are the client's own words here, so they are not looked at.
async fn check_client(
    State(server): Shared,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
    Path(tenant): Path<String>,
) -> Response {
    server.to_proxy(peer.ip(), &headers, &Question { tenant: Some(tenant), ..Question::default() })
}

async fn check_client_behind_a_path(
    server: Shared,
    peer: Peer,
    headers: HeaderMap,
    Path((tenant, _)): Path<(String, String)>,
) -> Response {
    check_client(server, peer, headers, Path(tenant)).await
}

async fn check_by_body(
    State(server): Shared,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let question = match body {
        Ok(body) => serde_json::from_slice::<Question>(&body).map_err(|e| e.to_string()),
        Err(rejection) => Err(rejection.body_text()),
    };
    let answer = question
        .map_err(Fault::NotUnderstood)
        .and_then(|question| server.answer(peer.ip(), &headers, &question));
    match answer {
        Ok(answer) => Json(answer).into_response(),
        Err(fault) => server.fault_to_page(&fault),
    }
}

async fn attack_status(State(server): Shared, headers: HeaderMap, Path(tenant): Path<String>) -> Response {
    let found = server.admit(&headers).and_then(|_| {
        let (lists, now) = (server.lists(), server.now());
        let tenant = tenant_of(&lists, Some(&tenant))?;
        Ok(lists.status_of(tenant, now).cloned().unwrap_or_else(|| calm(tenant, now)))
    });
    match found {
        Ok(status) => Json(status).into_response(),
        Err(fault) => server.fault_to_page(&fault),
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
    }
}

impl Server {
    /// An answer by status and headers. What goes with a 403 is shown to the client by most proxies, so it says no more
    /// than that.
    fn to_proxy(&self, peer: IpAddr, headers: &HeaderMap, question: &Question) -> Response {
        // A request that a proxy forwards carries its client's agent.
        let forwarded = headers.contains_key(FORWARDED_FOR) && question.user_agent.is_none();
        let agent = headers.get(header::USER_AGENT).filter(|_| forwarded).and_then(|agent| agent.to_str().ok());
        let with_agent = agent.map(|agent| Question { user_agent: Some(agent.to_owned()), ..question.clone() });
        let question = with_agent.as_ref().unwrap_or(question);
        let answer = match self.answer(peer, headers, question) {
            Ok(answer) => answer,
            Err(fault) => return self.fault_to_proxy(&fault),
        };
        let verdict = (VERDICT, HeaderValue::from_static(answer.verdict.as_str()));
        let stealth = question.stealth.unwrap_or(self.options.stealth);
        if answer.verdict == Verdict::Deny && !stealth {
            return (StatusCode::FORBIDDEN, [verdict], "denied\n").into_response();
        }
        let more = [
            verdict,
            (ACTION, HeaderValue::from_static(answer.action.as_str())),
            (ATTACK, HeaderValue::from_static(answer.attack.as_str())),
            (KNOWN, HeaderValue::from_static(if answer.known { "true" } else { "false" })),
        ];
        (StatusCode::OK, more, "").into_response()
    }

    fn fault_to_proxy(&self, fault: &Fault) -> Response {
        let status = match fault {
            Fault::NotReady | Fault::OverRate => StatusCode::SERVICE_UNAVAILABLE,
            Fault::NoKey | Fault::NotUnderstood(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        self.fault(status, fault)
    }

    fn fault_to_page(&self, fault: &Fault) -> Response {
        let status = match fault {
            Fault::NotReady => StatusCode::SERVICE_UNAVAILABLE,
            Fault::NoKey => StatusCode::UNAUTHORIZED,
            Fault::NotUnderstood(_) => StatusCode::BAD_REQUEST,
            Fault::OverRate => StatusCode::TOO_MANY_REQUESTS,
        };
        self.fault(status, fault)
    }

    fn fault(&self, status: StatusCode, fault: &Fault) -> Response {
        self.count(fault);
        let message = match fault {
            Fault::NotReady => "the lists are not read yet",
            Fault::NoKey => "a key is needed: X-Api-Key, or Authorization: Bearer",
            Fault::NotUnderstood(what) => what,
            Fault::OverRate => "this key asks about too many accounts a second",
        };
        let retry = matches!(fault, Fault::NotReady | Fault::OverRate).then_some([(header::RETRY_AFTER, "1")]);
        (status, retry, Json(serde_json::json!({ "message": message }))).into_response()
    }
}
