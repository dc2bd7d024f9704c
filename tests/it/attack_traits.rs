//! What the attempts of an attack share is told while it is on, and held against whoever has it too.

use portcullis::engine::{Emission, Output, Pipeline};
use portcullis::event::{
    AttackState, AttackStatus, FailureReason, Incident, LoginEvent, Millis, Outcome, Scope, Verdict,
};

use crate::support::core::{Core, Record, START, default_env, failure};

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:60.0) Gecko/20100101 Firefox/60.0";
const CHROME: &str = "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/75.0 Safari/537.36";
const TOOL: &str = "python-requests/2.22";
/// So many people log in, one a second; an hour later they have all done so several times.
const PEOPLE: i64 = 700;

fn login(at: Millis, n: i64) -> LoginEvent {
    let person = n % PEOPLE;
    LoginEvent {
        outcome: Outcome::Success,
        user_agent: Some(if person % 5 < 3 { FIREFOX } else { CHROME }.to_owned()),
        country: Some("FR".to_owned()),
        asn: Some(64_601),
        ..failure(at, n, &format!("203.0.{}.{}", person / 200, person % 200), &format!("person{person}@example.org"))
    }
}

/// A try of the attack: a name of nobody, from an address of its own.
fn attempt(at: Millis, n: i64, agent: &str) -> LoginEvent {
    LoginEvent {
        failure_reason: FailureReason::UnknownAccount,
        user_agent: Some(agent.to_owned()),
        country: Some(if n % 2 == 0 { "BR" } else { "ID" }.to_owned()),
        asn: Some(if n % 2 == 0 { 64_621 } else { 64_631 }),
        ..failure(at, format!("a{n}"), &format!("2001:db8:{n:x}::1"), &format!("nobody{n}@example.org"))
    }
}

#[derive(Default)]
struct Heard {
    statuses: Vec<AttackStatus>,
    incidents: Vec<Incident>,
    verdicts: Vec<Verdict>,
}

impl Heard {
    fn take(&mut self, emitted: Vec<Emission>) {
        for emission in emitted {
            match emission.output {
                Output::Status(status) => self.statuses.push(*status),
                Output::Incident(incident) => self.incidents.push(*incident),
                Output::Verdict(verdict) => self.verdicts.push(*verdict),
                Output::Block(_)
                | Output::KnownPair(_)
                | Output::Detail(_)
                | Output::Activity(_)
                | Output::DeadLetter(_)
                | Output::Playbook(_)
                | Output::Item { .. }
                | Output::MarkAll { .. } => {}
            }
        }
    }

    fn traits(&self) -> Vec<(&str, &str)> {
        let traits = self.statuses.last().map(|status| &*status.traits).unwrap_or_default();
        traits.iter().map(|t| (&*t.feature, &*t.value)).collect()
    }

    fn blocks(&self, playbook: &str) -> Vec<&str> {
        let of = self.verdicts.iter().filter(|v| v.playbook == playbook && v.scope == Scope::Cidr);
        of.map(|v| &*v.value).collect()
    }
}

#[test]
fn an_attacks_agent_is_told_and_one_try_with_it_is_enough() {
    let mut pipeline = Pipeline::new(default_env());
    let mut heard = Heard::default();
    let mut feed = |heard: &mut Heard, event: &LoginEvent| {
        heard.take(Core::feed(&mut pipeline, &Record::json(event.occurred_at, event)));
    };
    // A morning: enough for the sample.
    let calm = 16_000;
    (0..calm).for_each(|n| feed(&mut heard, &login(START + n * 1_000, n)));
    assert!(heard.statuses.is_empty() && heard.verdicts.is_empty());

    let began = START + calm * 1_000;
    for n in 0..600 {
        let at = began + n * 100;
        if n % 3 == 0 {
            feed(&mut heard, &login(at, calm + n / 3));
        }
        feed(&mut heard, &attempt(at, n, TOOL));
    }
    let status = heard.statuses.last().expect("a status");
    assert_eq!(status.state, AttackState::Attack, "{:?}", heard.statuses);
    let traits = heard.traits();
    for told in [("user_agent", TOOL), ("country", "BR"), ("asn", "64631")] {
        assert!(traits.contains(&told), "{told:?} of {traits:?}");
    }
    let of_people = |value: &str| value.contains("Mozilla") || value.contains("FR") || value.contains("64601");
    assert!(!traits.iter().any(|(_, value)| of_people(value)), "{traits:?}");
    let tool = status.traits.iter().find(|t| t.value == TOOL).unwrap();
    assert!(tool.lift > 100.0 && tool.share > 0.5, "{tool:?}");
    let incident = heard.incidents.last().expect("an incident");
    assert_eq!(incident.top_user_agents[0].value, TOOL);
    assert!(incident.top_networks.iter().any(|network| network.value == "AS64621"), "{incident:?}");

    // From now on one try is enough for whoever comes with that agent, and not for anybody else.
    let (told, at) = (heard.verdicts.len(), began + 61_000);
    feed(&mut heard, &attempt(at, 0xbad0, TOOL));
    feed(&mut heard, &LoginEvent { country: Some("FR".into()), asn: Some(64_601), ..attempt(at + 1, 0x600d, FIREFOX) });
    heard.verdicts.drain(..told);
    assert_eq!(heard.blocks("source-posterior"), ["2001:db8:bad0::/64"]);
    let weight = heard.verdicts[0].contributions["traits_of_the_attack"];
    assert!(weight > 2.0, "{:?}", heard.verdicts[0]);

    // When it is over nothing is said of it any more.
    let rest = (0..3_000).map(|n| login(at + 1_000 + n * 1_000, calm + 200 + n));
    rest.for_each(|event| feed(&mut heard, &event));
    assert_eq!(heard.statuses.last().unwrap().state, AttackState::Calm);
    assert!(heard.traits().is_empty());
}
