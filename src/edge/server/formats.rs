//! `GET /v1/blocklist`: the addresses and ranges in force, for whatever pulls a list: firewalls, appliances, scripts.
//!
//! | `format=` | |
//! | --- | --- |
//! | `text` | one a line; the default |
//! | `json` | with action and end, challenged ones too |
//! | `nginx` | lines for a `geo` block: `203.0.113.9 1;` |
//! | `haproxy` | a map: `203.0.113.9 1` |
//! | `nft` | a script for `nft -f` that replaces the sets `block4` and `block6` of the table `inet portcullis` |
//!
//! Lists are sorted and hold no time that passes, so one state has one `ETag`, whichever instance is asked.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Server;
use super::decisions::{Decision, kind};
use super::http::Shared;
use crate::event::{Action, Millis, Scope};
use crate::topology::exemptions::prefix_of;

/// Elements of one command of an nft script.
const ELEMENTS_A_COMMAND: usize = 1_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    format: Format,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Text,
    Json,
    Nginx,
    Haproxy,
    Nft,
}

/// An address or range, and what is decided about it.
type Entry = (IpNet, Scope, Decision);

/// A line of the JSON list.
#[derive(Debug, Serialize)]
struct Line<'a> {
    scope: Scope,
    value: String,
    action: Action,
    until: Option<Millis>,
    playbook: Option<&'a str>,
}

pub(super) fn list_routes() -> Router<Arc<Server>> {
    Router::new().route("/v1/blocklist", get(blocklist))
}

async fn blocklist(
    State(server): Shared,
    headers: HeaderMap,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    if let Err(fault) = server.admit(&headers) {
        return server.fault_to_page(&fault);
    }
    let format = match wanted {
        Ok(Query(wanted)) => wanted.format,
        Err(rejection) => {
            let message = serde_json::json!({ "message": rejection.body_text() });
            return (StatusCode::BAD_REQUEST, Json(message)).into_response();
        }
    };
    let written = server.write(move |server| {
        let body = write(format, &server.addresses());
        let tag = format!("\"{}\"", hex(&Sha256::digest(&body)[..16]));
        (body, tag)
    });
    let Some((body, tag)) = written.await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let is_held = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').map(str::trim).any(|held| held == "*" || held.strip_prefix("W/").unwrap_or(held) == tag)
    });
    let kind = if format == Format::Json { "application/json" } else { "text/plain; charset=utf-8" };
    let head = [(header::ETAG, tag), (header::CONTENT_TYPE, kind.to_owned())];
    if is_held { (StatusCode::NOT_MODIFIED, head).into_response() } else { (head, body).into_response() }
}

impl Server {
    /// Every address and range in force, in order.
    fn addresses(&self) -> Vec<Entry> {
        let now = self.now();
        self.decisions_mut().advance(now);
        let decisions = self.decisions();
        let all = decisions.all(|target, _| target.scope.is_address());
        let mut entries: Vec<Entry> = Vec::with_capacity(all.new.len());
        for item in &all.new {
            if let Some(net) = prefix_of(item.target.scope, &item.target.value) {
                entries.push((net, item.target.scope, item.decision.clone()));
            }
        }
        drop(all);
        drop(decisions);
        self.lists().each_expanded(now, |net, entry| entries.push((net, scope_of(&net), Decision::of(entry))));
        entries.sort_by_key(|(net, ..)| *net);
        entries
    }
}

const fn scope_of(net: &IpNet) -> Scope {
    match net {
        IpNet::V4(v4) if v4.prefix_len() == 32 => Scope::Ip,
        IpNet::V4(_) | IpNet::V6(_) => Scope::Cidr,
    }
}

fn write(format: Format, entries: &[Entry]) -> String {
    let denied = || entries.iter().filter(|(_, _, decision)| kind(decision.action) == "ban").map(|(net, ..)| *net);
    let lines = |end: &str| {
        let mut text = String::new();
        for net in denied() {
            text.push_str(&value_of(net));
            text.push_str(end);
        }
        text
    };
    match format {
        Format::Text => lines("\n"),
        Format::Nginx => lines(" 1;\n"),
        Format::Haproxy => lines(" 1\n"),
        Format::Nft => nft(denied()),
        Format::Json => {
            let lines = entries.iter().map(|(net, scope, decision)| Line {
                scope: *scope,
                value: value_of(*net),
                action: decision.action,
                until: decision.until,
                playbook: decision.playbook.as_deref(),
            });
            // Texts and numbers can always be written.
            serde_json::to_string(&lines.collect::<Vec<_>>()).unwrap_or_default()
        }
    }
}

/// An address without a length, a range with one.
fn value_of(net: IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

/// A script that replaces both sets in one transaction; ranges that hold others are merged with them, since a set takes no
/// overlaps.
fn nft(nets: impl Iterator<Item = IpNet>) -> String {
    let (mut v4, mut v6) = (Vec::<Ipv4Net>::new(), Vec::<Ipv6Net>::new());
    for net in nets {
        match net {
            IpNet::V4(net) => v4.push(net),
            IpNet::V6(net) => v6.push(net),
        }
    }
    let v4 = Ipv4Net::aggregate(&v4).into_iter().map(IpNet::from).collect::<Vec<_>>();
    let v6 = Ipv6Net::aggregate(&v6).into_iter().map(IpNet::from).collect::<Vec<_>>();
    let mut text = "add table inet portcullis\n".to_owned();
    for (set, kind, nets) in [("block4", "ipv4_addr", v4), ("block6", "ipv6_addr", v6)] {
        text.push_str(&format!("add set inet portcullis {set} {{ type {kind}; flags interval; }}\n"));
        text.push_str(&format!("flush set inet portcullis {set}\n"));
        for some in nets.chunks(ELEMENTS_A_COMMAND) {
            let elements: Vec<String> = some.iter().map(|net| value_of(*net)).collect();
            text.push_str(&format!("add element inet portcullis {set} {{ {} }}\n", elements.join(", ")));
        }
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        let all = [
            (Scope::Ip, "203.0.113.9", Action::Block, Some(5)),
            (Scope::Ip, "203.0.113.10", Action::Challenge, None),
            (Scope::Cidr, "203.0.113.8/30", Action::Block, None),
            (Scope::Cidr, "2001:db8::/64", Action::Block, None),
        ];
        let entry = |(scope, value, action, until)| {
            let decision = Decision { action, until, by_operator: false, wide: false, playbook: Some("p".into()) };
            (prefix_of(scope, value).unwrap(), scope, decision)
        };
        all.map(entry).to_vec()
    }

    #[test]
    fn each_format_says_it_in_its_own_words() {
        let all = entries();
        assert_eq!(write(Format::Text, &all), "203.0.113.9\n203.0.113.8/30\n2001:db8::/64\n");
        assert_eq!(write(Format::Nginx, &all), "203.0.113.9 1;\n203.0.113.8/30 1;\n2001:db8::/64 1;\n");
        assert_eq!(write(Format::Haproxy, &all), "203.0.113.9 1\n203.0.113.8/30 1\n2001:db8::/64 1\n");
        assert_eq!(
            write(Format::Nft, &all),
            "add table inet portcullis\n\
             add set inet portcullis block4 { type ipv4_addr; flags interval; }\n\
             flush set inet portcullis block4\n\
             add element inet portcullis block4 { 203.0.113.8/30 }\n\
             add set inet portcullis block6 { type ipv6_addr; flags interval; }\n\
             flush set inet portcullis block6\n\
             add element inet portcullis block6 { 2001:db8::/64 }\n"
        );
        let json: serde_json::Value = serde_json::from_str(&write(Format::Json, &all)).unwrap();
        let first = serde_json::json!(
            {"scope": "IP", "value": "203.0.113.9", "action": "BLOCK", "until": 5, "playbook": "p"});
        assert_eq!((&json[0], json.as_array().map(Vec::len)), (&first, Some(4)));
        assert_eq!(write(Format::Json, &[]), "[]");
        assert_eq!(write(Format::Text, &[]), "");
    }

    #[test]
    fn a_long_script_has_several_commands() {
        let nets = (0..2_500_u32).map(|n| IpNet::from(Ipv4Net::new_assert((0xcb00_0000 + 2 * n).into(), 32)));
        let script = nft(nets);
        assert_eq!(script.matches("add element inet portcullis block4").count(), 3);
        assert_eq!(script.matches("203.0.").count(), 2_500);
    }
}
