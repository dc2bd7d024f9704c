//! A message about nothing that happened, to try destinations and templates with.

use std::collections::BTreeSet;

use super::message::{Item, Message};
use super::news::{Occasion, Told};
use crate::event::{Compromise, Counted, Disposition, Incident, IncidentKind, IncidentState, Millis, Severity};

/// A message that shows everything there is to show, made at `now`.
#[must_use]
pub fn sample(destination: &str, console: Option<&str>, now: Millis) -> Message {
    let incident = incident(now);
    let told = Told {
        revision: now.saturating_sub(240_000),
        at: now.saturating_sub(240_000),
        severity: Severity::High,
        fallen: 0,
        attempts: 312,
        stopped_at_edge: 0,
        is_over: false,
        messages: 1,
        digests: 0,
        heard: 1,
    };
    let occasions: BTreeSet<Occasion> = [Occasion::Fell, Occasion::Escalated, Occasion::Ended].into();
    let item = Item::new(&incident, Some(&told), occasions, 25, console);
    Message { test: true, ..Message::new(destination, vec![item], now) }
}

fn incident(now: Millis) -> Incident {
    let counted = |value: &str, attempts| vec![Counted { value: value.to_owned(), attempts }];
    Incident {
        incident_id: "0123456789abcdef0123456789abcdef".to_owned(),
        tenant: "example".to_owned(),
        kind: IncidentKind::CredentialStuffing,
        state: IncidentState::Closed,
        severity: Severity::Critical,
        started_at: now.saturating_sub(900_000),
        updated_at: now,
        ended_at: Some(now.saturating_sub(1_000)),
        summary: "Credential stuffing from 403 sources: 11211 attempts, 693 failed on 3567 accounts (515 of them \
                  nobody's), 8285 stopped at the edge; 97 entities blocked, 1 accounts entered."
            .to_owned(),
        attempts: 11_211,
        failures: 693,
        stopped_at_edge: 8_285,
        sources: 403,
        accounts_targeted: 3_567,
        accounts_unknown: 515,
        blocked: 97,
        compromised: vec![Compromise {
            account: "ada@example.com".to_owned(),
            source_ip: "203.0.113.9".to_owned(),
            at: now.saturating_sub(660_000),
            flagged_at: now.saturating_sub(659_700),
            event_id: "5f0c".to_owned(),
        }],
        top_networks: counted("AS64500", 9_120),
        top_countries: counted("NL", 10_011),
        top_user_agents: counted("python-requests/2.22", 11_000),
        playbooks: vec!["ip-account-fanout".to_owned(), "site-campaign".to_owned()],
        disposition: Disposition::Undetermined,
    }
}
