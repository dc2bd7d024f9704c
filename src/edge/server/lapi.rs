//! The routes that CrowdSec's bouncers ask, so that any of them enforces our blocklist.
//!
//! | route | answers |
//! | --- | --- |
//! | `GET /v1/decisions/stream` | with `startup=true` everything, else what changed for this bouncer |
//! | `GET /v1/decisions?ip=` | what stands against an address (`range=`, `scope=` and `value=`); `null` when nothing does |
//! | `POST /v1/usage-metrics` | 201; what the bouncer stopped is added up |
//! | `GET /health` | that the server is up |
//!
//! Bouncers are told apart by key and address. What they do not say is as CrowdSec has it: scopes are addresses and
//! ranges, parameters that we do not know are ignored. Durations are whole seconds, at least one, in Go's syntax:
//! some clients take anything else for ever.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ipnet::IpNet;
use serde::Serialize;

use super::Server;
use super::bouncers::{Named, Usage};
use super::decisions::{Decision, Item, Target, kind};
use super::http::{Peer, Shared};
use super::shared::Fault;
use crate::event::{Millis, Scope, Source};

/// Who decided, when no person did.
const ORIGIN: &str = "portcullis";
/// Who decided, when it was a playbook that is meant for edges which refuse a whole machine.
const ORIGIN_WIDE: &str = "portcullis-wide";
/// Who decided, when a person did.
const ORIGIN_OPERATOR: &str = "portcullis-operator";
/// Most items of a list in a question; the rest is not looked at.
const WORDS_MAX: usize = 64;

type Parameters = BTreeMap<String, String>;

pub(super) fn bouncer_routes() -> Router<Arc<Server>> {
    Router::new()
        .route("/v1/decisions/stream", get(stream))
        .route("/v1/decisions", get(live))
        .route("/v1/usage-metrics", post(usage))
        .route("/health", get(|| async { Json(serde_json::json!({"status": "up"})) }))
}

async fn stream(
    State(server): Shared,
    ConnectInfo(peer): Peer,
    method: Method,
    headers: HeaderMap,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Response {
    let key = match server.admit(&headers) {
        Ok(key) => key,
        Err(fault) => return server.refusal(&fault),
    };
    if method == Method::HEAD {
        return json(b"".to_vec());
    }
    let parameters = parameters.map(|Query(parameters)| parameters).unwrap_or_default();
    let address = server.caller(peer, &headers);
    let written = server.write(move |server| server.stream((key, address), agent_of(&headers), &parameters)).await;
    written.map_or_else(|| StatusCode::INTERNAL_SERVER_ERROR.into_response(), json)
}

async fn live(
    State(server): Shared,
    method: Method,
    headers: HeaderMap,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Response {
    if let Err(fault) = server.admit(&headers) {
        return server.refusal(&fault);
    }
    if method == Method::HEAD {
        return json(b"".to_vec());
    }
    let parameters = parameters.map(|Query(parameters)| parameters).unwrap_or_default();
    match server.write(move |server| server.live(&parameters)).await {
        Some(Ok(body)) => json(body),
        Some(Err(what)) => message(StatusCode::BAD_REQUEST, &what),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn usage(
    State(server): Shared,
    ConnectInfo(peer): Peer,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let key = match server.admit(&headers) {
        Ok(key) => key,
        Err(fault) => return server.refusal(&fault),
    };
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return message(rejection.status(), &rejection.body_text()),
    };
    if headers.contains_key(header::CONTENT_ENCODING) {
        return message(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send it as it is, not compressed");
    }
    let usage = match serde_json::from_slice::<Usage>(&body) {
        Ok(usage) => usage,
        Err(error) => return message(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string()),
    };
    let [component] = usage.remediation_components.as_slice() else {
        return message(StatusCode::BAD_REQUEST, "there is not exactly one remediation component");
    };
    let who = Named { key: server.options.keys.name(key), agent: agent_of(&headers) };
    server.bouncers().report((key, server.caller(peer, &headers)), who, component);
    StatusCode::CREATED.into_response()
}

fn agent_of(headers: &HeaderMap) -> &str {
    headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default()
}

fn json(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn message(status: StatusCode, text: &str) -> Response {
    (status, Json(serde_json::json!({ "message": text }))).into_response()
}

impl Server {
    /// In CrowdSec's words.
    fn refusal(&self, fault: &Fault) -> Response {
        self.count(fault);
        match fault {
            Fault::NoKey => message(StatusCode::FORBIDDEN, "access forbidden"),
            Fault::NotReady => message(StatusCode::SERVICE_UNAVAILABLE, "the list is not read yet"),
            Fault::NotUnderstood(what) => message(StatusCode::BAD_REQUEST, what),
            Fault::OverRate => message(StatusCode::TOO_MANY_REQUESTS, "too many questions"),
        }
    }

    /// The address by which a bouncer is told from others; whoever hides behind a proxy that names nobody is that proxy.
    fn caller(&self, peer: SocketAddr, headers: &HeaderMap) -> IpAddr {
        self.client(peer.ip(), headers).unwrap_or(peer.ip())
    }

    fn stream(&self, caller: (usize, IpAddr), agent: &str, parameters: &Parameters) -> Vec<u8> {
        let filter = Filter::of(parameters);
        let is_first = parameters.get("startup").is_some_and(|value| value == "true");
        let now = self.now();
        self.decisions_mut().advance(now);
        let decisions = self.decisions();
        let who = Named { key: self.options.keys.name(caller.0), agent };
        let since = self.bouncers().pull(caller, who, is_first, decisions.last(), now);
        let answer = match since {
            Some(since) => decisions.changed(since, |target, decision| filter.wants(target, decision)),
            None => decisions.all(|target, decision| filter.wants(target, decision)),
        };
        let mut body = b"{\"new\":".to_vec();
        write_all(&mut body, answer.new.iter().map(|item| Wire::of(item, now)));
        body.extend_from_slice(b",\"deleted\":");
        let deleted = answer.deleted.iter().filter(|item| filter.knows(item.target.scope));
        write_all(&mut body, deleted.map(|item| Wire { duration: "0s".to_owned(), ..Wire::of(item, now) }));
        body.push(b'}');
        body
    }

    fn live(&self, parameters: &Parameters) -> Result<Vec<u8>, String> {
        let now = self.now();
        self.decisions_mut().advance(now);
        let decisions = self.decisions();
        let given = |name: &str| parameters.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let filter = Filter { scopes: None, ..Filter::of(parameters) };
        let items = match (given("ip"), given("range"), given("scope"), given("value")) {
            (Some(ip), ..) => decisions.against(net_of_address(ip)?),
            (None, Some(range), ..) => {
                let net =
                    range.parse::<IpNet>().map_err(|_| "range: not a range such as 198.51.100.0/24".to_owned())?;
                decisions.against(net.trunc())
            }
            (None, None, scope, Some(value)) => match (scope, value.parse::<IpNet>()) {
                (None, Ok(net)) => decisions.against(net.trunc()),
                (None, Err(_)) => decisions.against(net_of_address(value)?),
                (Some(scope), _) => {
                    let scope = scope_of(scope).ok_or("scope: not known")?;
                    decisions.in_force(&Target { scope, value: value.into() }).into_iter().collect()
                }
            },
            (None, None, scope, None) => {
                let scopes = scope.map(|scope| scope_of(scope).into_iter().collect());
                let filter = Filter { scopes, ..Filter::default() };
                decisions.all(|target, decision| filter.wants(target, decision)).new
            }
        };
        let of_type = given("type");
        let items = items.iter().filter(|item| {
            filter.wants(item.target, item.decision)
                && of_type.is_none_or(|wanted| kind(item.decision.action) == wanted)
        });
        let items: Vec<Wire<'_>> = items.map(|item| Wire::of(item, now)).collect();
        if items.is_empty() {
            // An empty list makes nginx's bouncer fall over.
            return Ok(b"null".to_vec());
        }
        let mut body = Vec::new();
        write_all(&mut body, items);
        Ok(body)
    }
}

/// The source of an address: an IPv6 address is held by its /64.
fn net_of_address(text: &str) -> Result<IpNet, String> {
    let source = text.parse::<Source>().map_err(|e| format!("ip: {e}"))?;
    let (address, length) = match source {
        Source::V4(_) => (source.first_address(), 32),
        Source::V6(_) => (source.first_address(), 64),
    };
    IpNet::new(address, length).map_err(|e| e.to_string())
}

/// A decision as CrowdSec writes it. None of its fields may be missing or null: Go clients would panic.
#[derive(Debug, Serialize)]
struct Wire<'a> {
    id: u64,
    origin: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    scope: &'static str,
    value: &'a str,
    duration: String,
    scenario: String,
}

impl<'a> Wire<'a> {
    fn of(item: &Item<'a>, now: Millis) -> Wire<'a> {
        Wire {
            id: item.number,
            origin: origin_of(item.decision),
            kind: kind(item.decision.action),
            scope: scope_name(item.target.scope),
            value: &item.target.value,
            duration: duration(item.end.saturating_sub(now)),
            scenario: scenario_of(item.decision),
        }
    }
}

fn write_all<'a>(body: &mut Vec<u8>, items: impl IntoIterator<Item = Wire<'a>>) {
    body.push(b'[');
    let mut is_first = true;
    for item in items {
        if !is_first {
            body.push(b',');
        }
        is_first = false;
        // Texts and numbers can always be written, and a list takes whatever is written.
        drop(serde_json::to_writer(&mut *body, &item));
    }
    body.push(b']');
}

const fn origin_of(decision: &Decision) -> &'static str {
    match decision {
        Decision { by_operator: true, .. } => ORIGIN_OPERATOR,
        Decision { wide: true, .. } => ORIGIN_WIDE,
        Decision { .. } => ORIGIN,
    }
}

fn scenario_of(decision: &Decision) -> String {
    match &decision.playbook {
        Some(playbook) => format!("portcullis/{playbook}"),
        None => "portcullis/operator".to_owned(),
    }
}

/// Go's notation in whole seconds, at least one: `1h0m5s`.
fn duration(ms: Millis) -> String {
    let seconds = (ms.saturating_add(999) / 1_000).max(1);
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// How CrowdSec writes a scope; those that it has no word for are custom ones.
const fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Ip => "Ip",
        Scope::Cidr => "Range",
        Scope::Country => "Country",
        Scope::Asn => "AS",
        Scope::Account => "Username",
        Scope::IpAccount => "IpUsername",
        Scope::Device => "Device",
        Scope::UserAgent => "UserAgent",
        Scope::TlsFingerprint => "TlsFingerprint",
        Scope::Tenant => "Tenant",
        Scope::Other => "Other",
    }
}

fn scope_of(name: &str) -> Option<Scope> {
    let all = [
        Scope::Ip,
        Scope::Cidr,
        Scope::Country,
        Scope::Asn,
        Scope::Account,
        Scope::IpAccount,
        Scope::Device,
        Scope::UserAgent,
        Scope::TlsFingerprint,
        Scope::Tenant,
    ];
    all.into_iter().find(|scope| scope_name(*scope).eq_ignore_ascii_case(name))
}

/// What a bouncer wants to hear of.
#[derive(Debug, Default)]
struct Filter {
    /// All of them when it is left out.
    scopes: Option<Vec<Scope>>,
    origins: Vec<String>,
    scenarios: Vec<String>,
    not_scenarios: Vec<String>,
}

impl Filter {
    fn of(parameters: &Parameters) -> Filter {
        // An empty list is none: the Node client sends one.
        let words = |name: &str| -> Vec<String> {
            let text = parameters.get(name).map(String::as_str).unwrap_or_default();
            let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
            words.take(WORDS_MAX).map(str::to_lowercase).collect()
        };
        let scopes = words("scopes");
        let scopes = if scopes.is_empty() {
            vec![Scope::Ip, Scope::Cidr]
        } else {
            scopes.iter().filter_map(|name| scope_of(name)).collect()
        };
        Filter {
            scopes: Some(scopes),
            origins: words("origins"),
            scenarios: words("scenarios_containing"),
            not_scenarios: words("scenarios_not_containing"),
        }
    }

    fn knows(&self, scope: Scope) -> bool {
        self.scopes.as_ref().is_none_or(|scopes| scopes.contains(&scope))
    }

    fn wants(&self, target: &Target, decision: &Decision) -> bool {
        if !self.knows(target.scope) {
            return false;
        }
        if self.origins.is_empty() && self.scenarios.is_empty() && self.not_scenarios.is_empty() {
            return true;
        }
        let scenario = scenario_of(decision).to_lowercase();
        (self.origins.is_empty() || self.origins.iter().any(|origin| origin == origin_of(decision)))
            && (self.scenarios.is_empty() || self.scenarios.iter().any(|part| scenario.contains(part)))
            && !self.not_scenarios.iter().any(|part| scenario.contains(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Action;

    #[test]
    fn durations_are_whole_seconds_in_go_syntax() {
        for (ms, text) in [
            (Millis::MIN, "1s"),
            (-5, "1s"),
            (0, "1s"),
            (1, "1s"),
            (1_001, "2s"),
            (59_000, "59s"),
            (60_000, "1m0s"),
            (239_000, "3m59s"),
            (3_600_000, "1h0m0s"),
            (604_800_000, "168h0m0s"),
        ] {
            assert_eq!(duration(ms), text);
        }
        assert!(duration(Millis::MAX).ends_with('s'));
    }

    #[test]
    fn a_filter_is_read_as_crowdsec_reads_it() {
        let filter = |pairs: &[(&str, &str)]| {
            Filter::of(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
        };
        let target = |scope| Target { scope, value: "x".into() };
        let decision = |playbook: Option<&str>, by_operator| Decision {
            action: Action::Block,
            until: None,
            by_operator,
            wide: playbook == Some("network-rollup"),
            playbook: playbook.map(Into::into),
        };
        let fanout = decision(Some("ip-account-fanout"), false);
        let by_hand = decision(None, true);
        let wants = |pairs: &[(&str, &str)], scope, decision: &Decision| filter(pairs).wants(&target(scope), decision);
        for none in [&[][..], &[("origins", "")], &[("scopes", ""), ("community_pull", "false")]] {
            assert!(wants(none, Scope::Ip, &fanout) && wants(none, Scope::Cidr, &by_hand));
            assert!(!wants(none, Scope::Account, &fanout));
        }
        assert!(wants(&[("scopes", "USERNAME, range")], Scope::Account, &fanout));
        assert!(!wants(&[("scopes", "USERNAME, range")], Scope::Ip, &fanout));
        assert!(!wants(&[("scopes", "galaxy")], Scope::Ip, &fanout));
        assert!(!wants(&[("origins", "portcullis-operator,cscli")], Scope::Ip, &fanout));
        assert!(wants(&[("origins", "portcullis-operator,cscli")], Scope::Ip, &by_hand));
        let for_hosts = [("origins", "portcullis-operator,portcullis-wide")];
        let rollup = decision(Some("network-rollup"), false);
        assert!(wants(&for_hosts, Scope::Cidr, &rollup) && wants(&for_hosts, Scope::Ip, &by_hand));
        assert!(!wants(&for_hosts, Scope::Ip, &fanout));
        assert!(wants(&[("scenarios_containing", "FANOUT")], Scope::Ip, &fanout));
        assert!(!wants(&[("scenarios_containing", "fanout")], Scope::Ip, &by_hand));
        assert!(!wants(&[("scenarios_not_containing", "fanout")], Scope::Ip, &fanout));
    }
}
