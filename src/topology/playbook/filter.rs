//! `where`: which attempts a playbook looks at. Every line must hold; of a list, one word is enough.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use crate::event::{Activity, Attempt, ChallengeResult, FailureReason, Method, Outcome, Source};
use crate::topology::networks::{HOSTING, PROXY};

/// Most words of one list.
pub(super) const WORDS_MAX: usize = 1_000;
/// Most bytes of one pattern.
pub(super) const PATTERN_BYTES_MAX: usize = 256;

/// One value or a list of them.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> From<OneOrMany<T>> for Vec<T> {
    fn from(some: OneOrMany<T>) -> Self {
        match some {
            OneOrMany::One(value) => vec![value],
            OneOrMany::Many(values) => values,
        }
    }
}

fn many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    OneOrMany::deserialize(deserializer).map(|some| Some(some.into()))
}

/// Attempts that a playbook looks at. What is left out may be anything.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Where {
    /// `FAILURE`, `SUCCESS`.
    #[serde(deserialize_with = "many")]
    #[schemars(with = "Option<OneOrMany<Outcome>>")]
    pub outcome: Option<Vec<Outcome>>,
    #[serde(deserialize_with = "many")]
    #[schemars(with = "Option<OneOrMany<FailureReason>>")]
    pub failure_reason: Option<Vec<FailureReason>>,
    #[serde(deserialize_with = "many")]
    #[schemars(with = "Option<OneOrMany<Method>>")]
    pub method: Option<Vec<Method>>,
    /// Without it: logins.
    #[serde(deserialize_with = "many")]
    #[schemars(with = "Option<OneOrMany<Activity>>")]
    pub activity: Option<Vec<Activity>>,
    #[serde(deserialize_with = "many")]
    #[schemars(with = "Option<OneOrMany<ChallengeResult>>")]
    pub challenge: Option<Vec<ChallengeResult>>,
    /// Addresses and ranges: `203.0.113.7`, `198.51.100.0/24`, `2001:db8::/32`.
    #[serde(deserialize_with = "many")]
    #[schemars(with = "Option<OneOrMany<String>>")]
    pub source: Option<Vec<String>>,
    #[serde(deserialize_with = "many")]
    #[schemars(with = "Option<OneOrMany<u32>>")]
    pub asn: Option<Vec<u32>>,
    /// Patterns, as all that follow: `*` stands for anything, case does not matter.
    #[serde(deserialize_with = "many")]
    #[schemars(with = "Option<OneOrMany<String>>")]
    pub country: Option<Vec<String>>,
    #[serde(deserialize_with = "many")]
    #[schemars(with = "Option<OneOrMany<String>>")]
    pub account: Option<Vec<String>>,
    #[serde(deserialize_with = "many")]
    #[schemars(with = "Option<OneOrMany<String>>")]
    pub application: Option<Vec<String>>,
    #[serde(deserialize_with = "many")]
    #[schemars(with = "Option<OneOrMany<String>>")]
    pub user_agent: Option<Vec<String>>,
    #[serde(deserialize_with = "many")]
    #[schemars(with = "Option<OneOrMany<String>>")]
    pub device_id: Option<Vec<String>>,
    #[serde(deserialize_with = "many")]
    #[schemars(with = "Option<OneOrMany<String>>")]
    pub tls_fingerprint: Option<Vec<String>>,
    /// Attributes by name.
    pub attributes: BTreeMap<String, Vec<String>>,
    /// Whether the account exists, where the publisher says.
    pub account_exists: Option<bool>,
    /// Whether the credentials are known to be leaked, where the publisher says.
    pub credential_leaked: Option<bool>,
    /// Whether the source is a machine for rent, by a list or file of networks, or the publisher's attribute `hosting`.
    pub hosting: Option<bool>,
    /// Whether somebody else may stand behind the source, by a list or file of networks, or the publisher's attribute
    /// `proxy`.
    pub proxy: Option<bool>,
    /// Fields that the attempt must have, or must lack.
    pub has: Vec<Field>,
    pub lacks: Vec<Field>,
    /// None of these may hold.
    pub not: Option<Box<Where>>,
}

/// A field that an attempt may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    Account,
    Application,
    UserAgent,
    DeviceId,
    TlsFingerprint,
    Asn,
    Country,
    PasswordTag,
    SessionId,
}

impl Where {
    /// Whether it names activities besides logins.
    #[must_use]
    pub fn asks_for_requests(&self) -> bool {
        self.activity.as_ref().is_some_and(|all| all.iter().any(|one| *one != Activity::Login))
    }

    /// What is wrong with it, and what to do.
    pub(super) fn problems(&self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        if *self == Where::default() {
            found.push(format!("{name}: empty; remove it, or name what to look at"));
        }
        for (field, patterns) in self.patterns() {
            if patterns.is_empty() {
                found.push(format!("{name}.{field}: an empty list matches nothing; remove it"));
            }
            if patterns.len() > WORDS_MAX {
                found.push(format!("{name}.{field}: {} words; at most {WORDS_MAX}", patterns.len()));
            }
            let wrong = patterns.iter().find(|p| p.is_empty() || p.len() > PATTERN_BYTES_MAX);
            if let Some(pattern) = wrong {
                found.push(format!("{name}.{field}: a pattern of {} bytes; 1 to {PATTERN_BYTES_MAX}", pattern.len()));
            }
        }
        for text in self.source.iter().flatten() {
            if range(text).is_none() {
                found.push(format!(
                    "{name}.source: `{}` is no address and no range such as 198.51.100.0/24 or 2001:db8::/48 (IPv6: /64 \
                     or wider)",
                    text.chars().take(64).collect::<String>()
                ));
            }
        }
        if self.asn.as_ref().is_some_and(|all| all.is_empty() || all.len() > WORDS_MAX) {
            found.push(format!("{name}.asn: 1 to {WORDS_MAX} numbers"));
        }
        if let Some(both) = self.has.iter().find(|field| self.lacks.contains(field)) {
            found.push(format!("{name}: `{both:?}` cannot be there and be lacking; this matches nothing"));
        }
        match &self.not {
            Some(not) if not.not.is_some() => found.push(format!("{name}.not.not: say it without the second `not`")),
            Some(not) => found.extend(not.problems(&format!("{name}.not"))),
            None => {}
        }
        found
    }

    fn patterns(&self) -> impl Iterator<Item = (&str, &Vec<String>)> {
        let plain = [
            ("source", &self.source),
            ("country", &self.country),
            ("account", &self.account),
            ("application", &self.application),
            ("user_agent", &self.user_agent),
            ("device_id", &self.device_id),
            ("tls_fingerprint", &self.tls_fingerprint),
        ];
        let plain = plain.into_iter().filter_map(|(name, some)| Some((name, some.as_ref()?)));
        plain.chain(self.attributes.iter().map(|(name, patterns)| (name.as_str(), patterns)))
    }

    /// One sentence's part: `outcome FAILURE, user_agent curl*`.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        fn words<T: std::fmt::Display>(parts: &mut Vec<String>, name: &str, some: Option<&Vec<T>>) {
            if let Some(all) = some {
                let all: Vec<String> = all.iter().take(5).map(T::to_string).collect();
                parts.push(format!("{name} {}", all.join(" or ")));
            }
        }
        words(&mut parts, "outcome", self.outcome.as_ref());
        words(&mut parts, "failure_reason", self.failure_reason.as_ref());
        words(&mut parts, "method", self.method.as_ref());
        words(&mut parts, "activity", self.activity.as_ref());
        words(&mut parts, "challenge", self.challenge.as_ref());
        words(&mut parts, "asn", self.asn.as_ref());
        for (name, patterns) in self.patterns() {
            words(&mut parts, name, Some(patterns));
        }
        parts.extend(self.account_exists.map(|is| if is { "existing accounts" } else { "names of nobody" }.to_owned()));
        parts.extend(self.credential_leaked.map(|is| format!("credential_leaked {is}")));
        parts.extend(self.hosting.map(|is| if is { "from hosting" } else { "not from hosting" }.to_owned()));
        parts.extend(self.proxy.map(|is| if is { "from proxies" } else { "not from proxies" }.to_owned()));
        parts.extend(self.has.iter().map(|field| format!("with {field:?}")));
        parts.extend(self.lacks.iter().map(|field| format!("without {field:?}")));
        parts.extend(self.not.iter().map(|not| format!("and not ({})", not.describe())));
        parts.join(", ")
    }
}

/// A `where`, ready to be asked about each attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    of: Where,
    sources: Option<Vec<IpNet>>,
    not: Option<Box<Filter>>,
}

impl Filter {
    /// Of a `where` that was checked.
    #[must_use]
    pub fn compile(of: &Where) -> Filter {
        let lower = |some: &Option<Vec<String>>| {
            some.as_ref().map(|all| all.iter().map(|text| text.to_lowercase()).collect::<Vec<_>>())
        };
        let attributes = of
            .attributes
            .iter()
            .map(|(name, all)| (name.clone(), all.iter().map(|text| text.to_lowercase()).collect()))
            .collect();
        Filter {
            sources: of.source.as_ref().map(|all| all.iter().filter_map(|text| range(text)).collect()),
            not: of.not.as_ref().map(|not| Box::new(Filter::compile(not))),
            of: Where {
                country: lower(&of.country),
                account: lower(&of.account),
                application: lower(&of.application),
                user_agent: lower(&of.user_agent),
                device_id: lower(&of.device_id),
                tls_fingerprint: lower(&of.tls_fingerprint),
                attributes,
                not: None,
                ..of.clone()
            },
        }
    }

    /// Whether a playbook with this `where` looks at the attempt.
    #[must_use]
    pub fn takes(&self, a: &Attempt) -> bool {
        // What is no login is looked at by those who ask for it.
        if self.of.activity.is_none() && a.activity != Activity::Login {
            return false;
        }
        self.lines(a).into_iter().flatten().all(|holds| holds)
            && self.attributes(a).all(|holds| holds)
            && !self.not.as_ref().is_some_and(|not| {
                not.lines(a).into_iter().flatten().any(|holds| holds) || not.attributes(a).any(|holds| holds)
            })
    }

    /// Whether each line holds; `None` where it says nothing.
    fn lines(&self, a: &Attempt) -> [Option<bool>; 19] {
        let of = &self.of;
        [
            one_of(&of.outcome, a.outcome),
            one_of(&of.failure_reason, a.failure_reason),
            one_of(&of.method, a.method),
            one_of(&of.activity, a.activity),
            one_of(&of.challenge, a.challenge),
            of.account_exists.map(|is| if is { a.account_exists == Some(true) } else { a.is_unknown_account() }),
            of.credential_leaked.map(|is| a.credential_leaked == Some(is)),
            of.hosting.map(|is| is_said(a, HOSTING) == is),
            of.proxy.map(|is| is_said(a, PROXY) == is),
            of.asn.as_ref().map(|all| a.asn.is_some_and(|asn| all.contains(&asn))),
            self.sources.as_ref().map(|all| is_within(all, a.source)),
            like(&of.country, a.country.as_deref()),
            like(&of.account, Some(&a.account)),
            like(&of.application, a.application.as_deref()),
            like(&of.user_agent, a.user_agent.as_deref()),
            like(&of.device_id, a.device_id.as_deref()),
            like(&of.tls_fingerprint, a.tls_fingerprint.as_deref()),
            (!of.has.is_empty()).then(|| of.has.iter().all(|field| field.is_in(a))),
            (!of.lacks.is_empty()).then(|| !of.lacks.iter().any(|field| field.is_in(a))),
        ]
    }

    fn attributes<'a>(&'a self, a: &'a Attempt) -> impl Iterator<Item = bool> + 'a {
        self.of.attributes.iter().map(|(name, patterns)| {
            let held = a.attributes.iter().find(|(held, _)| **held == **name);
            held.is_some_and(|(_, value)| patterns.iter().any(|pattern| matches(pattern, value)))
        })
    }
}

impl Field {
    fn is_in(self, a: &Attempt) -> bool {
        match self {
            Field::Account => !a.account.is_empty(),
            Field::Application => a.application.is_some(),
            Field::UserAgent => a.user_agent.is_some(),
            Field::DeviceId => a.device_id.is_some(),
            Field::TlsFingerprint => a.tls_fingerprint.is_some(),
            Field::Asn => a.asn.is_some(),
            Field::Country => a.country.is_some(),
            Field::PasswordTag => a.password_tag.is_some(),
            Field::SessionId => a.session_id.is_some(),
        }
    }
}

/// Whether an attribute says so.
fn is_said(a: &Attempt, name: &str) -> bool {
    a.attributes.iter().any(|(held, value)| **held == *name && value.eq_ignore_ascii_case("true"))
}

fn one_of<T: PartialEq>(words: &Option<Vec<T>>, value: T) -> Option<bool> {
    words.as_ref().map(|words| words.contains(&value))
}

fn like(patterns: &Option<Vec<String>>, value: Option<&str>) -> Option<bool> {
    let patterns = patterns.as_ref()?;
    Some(value.is_some_and(|value| patterns.iter().any(|pattern| matches(pattern, value))))
}

/// An address as a range of one, or a range; `None` when it is neither, or narrower than a source.
fn range(text: &str) -> Option<IpNet> {
    let range = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    match range {
        IpNet::V4(_) => Some(range.trunc()),
        // An IPv6 source is its /64.
        IpNet::V6(v6) if v6.prefix_len() == 128 && !text.contains('/') => {
            IpNet::new(range.addr(), 64).ok().map(|net| net.trunc())
        }
        IpNet::V6(v6) => (v6.prefix_len() <= 64).then(|| range.trunc()),
    }
}

fn is_within(ranges: &[IpNet], source: Source) -> bool {
    let address = source.first_address();
    ranges.iter().any(|range| range.contains(&address))
}

/// Whether `*` in a lower-case pattern can be filled so that it is the value, whatever the value's case. The parts are looked
/// for from left to right, each where it first comes: time grows with pattern times value, and both are bounded.
fn matches(pattern: &str, value: &str) -> bool {
    let value = value.to_lowercase();
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| value.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, value, fits) in [
            ("curl/*", "curl/8.5.0", true),
            ("curl/*", "CURL/8", true),
            ("curl/*", "libcurl/8", false),
            ("*curl*", "libcurl/8", true),
            ("a*b", "ab", true),
            ("a*b", "aXbY", false),
            ("a*b*b", "ab", false),
            ("a*b*b", "abb", true),
            ("*", "", true),
            ("exact", "exact", true),
            ("exact", "exactly", false),
        ] {
            assert_eq!(matches(pattern, value), fits, "{pattern} {value}");
        }
    }

    /// Tries every way to fill the stars.
    fn slowly(pattern: &[u8], value: &[u8]) -> bool {
        match pattern.split_first() {
            None => value.is_empty(),
            Some((b'*', rest)) => (0..=value.len()).any(|skip| slowly(rest, &value[skip..])),
            Some((one, rest)) => value.first() == Some(one) && slowly(rest, &value[1..]),
        }
    }

    proptest! {
        #[test]
        fn patterns_match_as_trying_everything_does(pattern in "[ab*]{0,8}", value in "[ab]{0,10}") {
            prop_assert_eq!(matches(&pattern, &value), slowly(pattern.as_bytes(), value.as_bytes()));
        }
    }

    #[test]
    fn ranges_are_of_sources() {
        let within = |text: &str, source: &str| is_within(&[range(text).unwrap()], source.parse().unwrap());
        assert!(within("203.0.113.0/24", "203.0.113.9") && !within("203.0.113.0/24", "203.0.114.9"));
        assert!(within("203.0.113.9", "203.0.113.9") && !within("203.0.113.9", "203.0.113.8"));
        assert!(within("2001:db8::7", "2001:db8::9") && within("2001:db8::/32", "2001:db8:1::1"));
        assert_eq!([range("2001:db8::/96"), range("office"), range("10.0.0.0/33")], [None; 3]);
    }
}
