//! HTTP around the lists.
//!
//! | route | answers |
//! | --- | --- |
//! | `GET /v1/check?tenant=&ip=&account=&device=…` | 200 allow or challenge, 403 deny, in headers; for a proxy or a page |
//! | any `/v1/check/{tenant}/…` | the same about the request's client alone; for proxies that append the client's path |
//! | `POST /v1/check` with the same as JSON | 200 with the whole answer; for a login page |
//! | `GET /v1/attack-status/{tenant}` | the attack status in force; `…/events`: as server-sent events |
//!
//! A `GET` that cannot be answered (no key, a question that makes no sense, lists that are not read yet, too many
//! questions) is answered with 5xx: proxies take every 4xx for a deny, and a fault on this side must lock nobody out. A
//! `POST` is answered with 400, 401, 429 or 503 then.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::map_request;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};

use super::client::verified;
use super::shared::{FORWARDED_FOR, Fault, tenant_of};
use super::{Question, Server, Verdict, bouncer_routes, event_routes, list_routes};

/// Largest body of a question, in bytes.
const QUESTION_BYTES_MAX: usize = 64 << 10;

/// What stands before the tenant in the path of a proxy's question.
const CHECK_CLIENT: &str = "/v1/check/";

const VERDICT: HeaderName = HeaderName::from_static("x-portcullis-verdict");
const ACTION: HeaderName = HeaderName::from_static("x-portcullis-action");
const ATTACK: HeaderName = HeaderName::from_static("x-portcullis-attack");
const KNOWN: HeaderName = HeaderName::from_static("x-portcullis-known");

/// Everything that is asked over HTTP.
pub fn routes(server: Arc<Server>) -> Router {
    let check = get(check_by_query).post(check_by_body).layer(DefaultBodyLimit::max(QUESTION_BYTES_MAX));
    Router::new()
        .route("/v1/check", check)
        .route("/v1/check/{tenant}", any(check_client))
        .route("/v1/check/{tenant}/", any(check_client))
        .route("/v1/check/{tenant}/{*path}", any(check_client))
        .route("/v1/attack-status/{tenant}", get(attack_status))
        .merge(event_routes())
        .merge(bouncer_routes())
        .merge(list_routes())
        .layer(map_request(verified))
        .with_state(server)
}

pub(super) type Peer = ConnectInfo<SocketAddr>;
pub(super) type Shared = State<Arc<Server>>;

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

/// The path behind the tenant, the query and the method are the client's own here, so they are not looked at.
async fn check_client(State(server): Shared, ConnectInfo(peer): Peer, headers: HeaderMap, uri: Uri) -> Response {
    let tenant = uri.path().strip_prefix(CHECK_CLIENT).and_then(|rest| rest.split('/').next());
    let question = Question { tenant: tenant.map(str::to_owned), ..Question::default() };
    server.to_proxy(peer.ip(), &headers, &question)
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
    let answer =
        question.map_err(Fault::NotUnderstood).and_then(|question| server.answer(peer.ip(), &headers, &question));
    match answer {
        Ok(answer) => Json(answer).into_response(),
        Err(fault) => server.fault_to_page(&fault),
    }
}

async fn attack_status(State(server): Shared, headers: HeaderMap, Path(tenant): Path<String>) -> Response {
    let found = server.admit(&headers).and_then(|_| {
        tenant_of(&server.lists(), Some(&tenant))?;
        Ok(server.status_of(&tenant))
    });
    match found {
        Ok(status) => Json(status).into_response(),
        Err(fault) => server.fault_to_page(&fault),
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

    pub(super) fn fault_to_page(&self, fault: &Fault) -> Response {
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
            Fault::NoKey => "a key is needed: X-Api-Key, Authorization, or a certificate with the name of one",
            Fault::NotUnderstood(what) => what,
            Fault::OverRate => "this key asks about too many accounts a second",
        };
        let retry = matches!(fault, Fault::NotReady | Fault::OverRate).then_some([(header::RETRY_AFTER, "1")]);
        (status, retry, Json(serde_json::json!({ "message": message }))).into_response()
    }
}
