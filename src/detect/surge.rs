//! What the bad attempts of an attack share: values of a feature (an autonomous system, a country, an agent, a TLS
//! fingerprint, or two of them together; a wrong password) that are more frequent now than they ever were, and whose traffic
//! is mostly bad.
//!
//! Shares are compared by a G-test, over all values that are followed, with the false discoveries held to one in a million
//! (Benjamini and Hochberg). How much of a value's traffic is bad follows from its successes (Herley and Schechter): an
//! attack brings none worth mentioning. Counted are those of pairs that were known before, each once in a while, so an
//! attacker's own accounts make nothing look good: they are few, and must have been prepared.
//!
//! What is usual is learnt from a sample of calm traffic and forgotten by half in a week; what is now, by half in a minute. A
//! feature follows a bounded number of values. One that comes anew takes the place of the rarest and starts at zero, so
//! what an attacker invents pushes out what an attacker invents.

use serde::{Deserialize, Serialize};

use crate::event::{Attempt, Millis};
use crate::window::Hashed;

/// Half of what is usual is forgotten in this time.
const USUAL_HALF_LIFE_MS: f64 = 7.0 * 86_400_000.0;
/// Half of what is now.
const NOW_HALF_LIFE_MS: f64 = 60_000.0;
/// Sums fade in steps of at least this.
const FADE_EVERY_MS: Millis = 1_000;
/// Most values that are followed of one feature.
const VALUES_MAX: usize = 128;
/// Most bytes of a text: user agents have no end.
const TEXT_BYTES_MAX: usize = 128;
/// So many sampled attempts must be remembered before anything is compared with them.
const LEARNT_MIN: f64 = 500.0;
/// So many attempts of all, and of one value, are needed now.
const NOW_MIN: f64 = 30.0;
const VALUE_MIN: f64 = 10.0;
/// One in so many of the values that are named may be there by chance.
const FALSE_DISCOVERIES: f64 = 1e-6;
/// Bad attempts to a good one that a value must have at least, with 95 % certainty.
const BAD_TO_GOOD_MIN: f64 = 5.0;
/// Attempts of all values that count for a value's own usual share of known successes.
const SHARED_ATTEMPTS: f64 = 20.0;
/// A stranger who gets in is taken for an intruder at these odds: one in ten is wrong, at most and in the mean.
const INTRUDERS_MIN: f64 = 9.0;
/// And with traits that weigh so much, in nats: never for having come at a bad time.
const INTRUDERS_TRAITS_MIN: f64 = 2.0;
/// Most traits that are told.
pub const TRAITS_MAX: usize = 16;
/// No trait weighs more, in nats. Systems and countries are shared by too many to weigh as much.
const WEIGHT_MAX: f64 = 4.0;
const WEIGHT_MAX_OF_PLACES: f64 = 1.5;
/// A pair is told beside one of its parts only if it weighs so much more, in nats.
const PAIR_GAIN: f64 = std::f64::consts::LN_2;
/// Standard deviations of a 95 % bound on one side.
const ONE_SIDED: f64 = 1.645;
/// Between the parts of a pair.
const JOINT: char = '\u{1f}';

/// What values are compared of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Feature {
    Asn,
    Country,
    UserAgent,
    TlsFingerprint,
    AsnUserAgent,
    CountryUserAgent,
    UserAgentTlsFingerprint,
    PasswordTag,
}

impl Feature {
    pub const ALL: [Feature; 8] = [
        Feature::Asn,
        Feature::Country,
        Feature::UserAgent,
        Feature::TlsFingerprint,
        Feature::AsnUserAgent,
        Feature::CountryUserAgent,
        Feature::UserAgentTlsFingerprint,
        Feature::PasswordTag,
    ];

    /// The name in the public record: `asn`, `asn+user_agent`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Feature::Asn => "asn",
            Feature::Country => "country",
            Feature::UserAgent => "user_agent",
            Feature::TlsFingerprint => "tls_fingerprint",
            Feature::AsnUserAgent => "asn+user_agent",
            Feature::CountryUserAgent => "country+user_agent",
            Feature::UserAgentTlsFingerprint => "user_agent+tls_fingerprint",
            Feature::PasswordTag => "password_tag",
        }
    }

    /// The feature of a name.
    #[must_use]
    pub fn of(name: &str) -> Option<Feature> {
        Feature::ALL.into_iter().find(|feature| feature.as_str() == name)
    }

    /// The parts of a pair.
    const fn parts(self) -> Option<[Feature; 2]> {
        match self {
            Feature::Asn | Feature::Country | Feature::UserAgent | Feature::TlsFingerprint | Feature::PasswordTag => {
                None
            }
            Feature::AsnUserAgent => Some([Feature::Asn, Feature::UserAgent]),
            Feature::CountryUserAgent => Some([Feature::Country, Feature::UserAgent]),
            Feature::UserAgentTlsFingerprint => Some([Feature::UserAgent, Feature::TlsFingerprint]),
        }
    }

    /// Where somebody comes from, and not what he uses.
    const fn is_place(self) -> bool {
        matches!(self, Feature::Asn | Feature::Country)
    }
}

/// What an attempt has of the features.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Profile {
    pub asn: Option<u32>,
    pub country: Option<Box<str>>,
    pub user_agent: Option<Box<str>>,
    pub tls_fingerprint: Option<Box<str>>,
    /// Of an attempt that failed: a tag of the right password is nobody's business.
    pub password_tag: Option<u32>,
}

impl Profile {
    /// That of an attempt; texts are cut at 128 bytes.
    #[must_use]
    pub fn of(a: &Attempt) -> Profile {
        let text = |text: &Option<Box<str>>| text.as_deref().map(|text| Box::from(cut(text)));
        Profile {
            asn: a.asn,
            country: text(&a.country),
            user_agent: text(&a.user_agent),
            tls_fingerprint: text(&a.tls_fingerprint),
            password_tag: a.password_tag.filter(|_| a.is_failure()),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Profile::default()
    }

    /// The same in parts that many attempts have in common: hardly any two have their password in common as well.
    pub fn parts(self) -> impl Iterator<Item = Profile> {
        let of_password = Profile { password_tag: self.password_tag, ..Profile::default() };
        let rest = Profile { password_tag: None, ..self };
        [rest, of_password].into_iter().filter(|part| !part.is_empty())
    }

    /// Its value of a feature, as the public record names it: both of a pair, joined by U+001F.
    #[must_use]
    pub fn value(&self, feature: Feature) -> Option<String> {
        match feature {
            Feature::Asn => self.asn.map(|asn| asn.to_string()),
            Feature::Country => self.country.as_deref().map(str::to_owned),
            Feature::UserAgent => self.user_agent.as_deref().map(str::to_owned),
            Feature::TlsFingerprint => self.tls_fingerprint.as_deref().map(str::to_owned),
            Feature::PasswordTag => self.password_tag.map(|tag| format!("{tag:06x}")),
            Feature::AsnUserAgent | Feature::CountryUserAgent | Feature::UserAgentTlsFingerprint => {
                let [first, second] = feature.parts()?;
                Some(format!("{}{JOINT}{}", self.value(first)?, self.value(second)?))
            }
        }
    }
}

/// The beginning of a text, whole characters of it.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default()
}

/// Attempts, and among them the successes of known pairs, and those of strangers.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Seen {
    pub attempts: f64,
    pub known: f64,
    pub entered: f64,
}

impl Seen {
    fn add(&mut self, more: Seen) {
        self.attempts += more.attempts;
        self.known += more.known;
        self.entered += more.entered;
    }

    fn fade(&mut self, kept: f64) {
        self.attempts *= kept;
        self.known *= kept;
        self.entered *= kept;
    }
}

/// When something was seen: calm traffic, which is usual, or what is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Usual,
    Now,
}

/// Sums of the values of one feature at a tenant.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Values {
    usual: Seen,
    now: Seen,
    /// In the order of their hashes.
    values: Vec<Value>,
    /// When they last faded.
    at: Millis,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Value {
    hashed: Hashed,
    text: Box<str>,
    usual: Seen,
    now: Seen,
}

impl Values {
    /// Adds what was seen of a value; `hashed` is its keyed hash.
    pub fn add(&mut self, text: &str, hashed: Hashed, when: When, seen: Seen, at: Millis) {
        self.fade(at);
        self.sum(when).add(seen);
        let place = match self.values.binary_search_by_key(&hashed, |value| value.hashed) {
            Ok(place) => place,
            Err(place) => self.make_room(place, hashed, text),
        };
        if let Some(value) = self.values.get_mut(place) {
            let sum = match when {
                When::Usual => &mut value.usual,
                When::Now => &mut value.now,
            };
            sum.add(seen);
        }
    }

    fn sum(&mut self, when: When) -> &mut Seen {
        match when {
            When::Usual => &mut self.usual,
            When::Now => &mut self.now,
        }
    }

    /// Where a new value stands; the rarest one goes where there are too many.
    fn make_room(&mut self, mut place: usize, hashed: Hashed, text: &str) -> usize {
        if self.values.len() >= VALUES_MAX {
            let weight = |value: &Value| value.usual.attempts + value.now.attempts;
            let rarest = (0..self.values.len()).min_by(|a, b| {
                let [a, b] = [a, b].map(|at| self.values.get(*at).map_or(0.0, weight));
                a.total_cmp(&b)
            });
            if let Some(rarest) = rarest {
                self.values.remove(rarest);
                place -= usize::from(rarest < place);
            }
        }
        let value = Value { hashed, text: text.into(), usual: Seen::default(), now: Seen::default() };
        self.values.insert(place, value);
        place
    }

    fn fade(&mut self, at: Millis) {
        let passed = at.saturating_sub(self.at);
        if passed < FADE_EVERY_MS {
            return;
        }
        self.at = at;
        let kept = |half_life: f64| (-(passed as f64) / half_life).exp2();
        let (usual, now) = (kept(USUAL_HALF_LIFE_MS), kept(NOW_HALF_LIFE_MS));
        self.usual.fade(usual);
        self.now.fade(now);
        for value in &mut self.values {
            value.usual.fade(usual);
            value.now.fade(now);
        }
    }

    /// Whether `value` now is more of all than it usually is, as the statistic of a G-test; `None`: it is not.
    fn surge(&self, value: &Value) -> Option<f64> {
        let table = [
            [value.now.attempts, self.now.attempts - value.now.attempts],
            [value.usual.attempts, self.usual.attempts - value.usual.attempts],
        ];
        let is_more = value.now.attempts * self.usual.attempts > value.usual.attempts * self.now.attempts;
        (is_more && value.now.attempts >= VALUE_MIN).then(|| g_statistic(table))
    }

    /// Bad attempts to a good one of a value: the estimate, and what it is at least with 95 % certainty. A feature that no
    /// success has, wrong passwords, tells of no good attempts: there it follows from how many more there are than usual.
    fn bad_to_good(&self, value: &Value) -> [f64; 2] {
        if self.usual.known <= 0.0 {
            let usually = |usual: f64| usual / self.usual.attempts * self.now.attempts;
            return [
                (value.now.attempts / usually(value.usual.attempts + 1.0) - 1.0).max(0.0),
                (poisson_at_least(value.now.attempts) / usually(poisson_at_most(value.usual.attempts)) - 1.0).max(0.0),
            ];
        }
        let of_all = self.usual.known / self.usual.attempts;
        let own = (value.usual.known + SHARED_ATTEMPTS * of_all) / (value.usual.attempts + SHARED_ATTEMPTS);
        let ratio = |known: f64| (own * (value.now.attempts + 0.5) / known - 1.0).max(0.0);
        [ratio(value.now.known + 0.5), ratio(poisson_at_most(value.now.known))]
    }
}

/// Something that the bad attempts share.
#[derive(Debug, Clone, PartialEq)]
pub struct Surging {
    pub feature: Feature,
    pub value: Box<str>,
    /// Share of attempts now.
    pub share: f64,
    /// That over its usual share.
    pub lift: f64,
    /// Bad attempts to a good one of it.
    pub bad_to_good: f64,
}

/// Of the strangers who get in now, how many are the attack's to one who is not; with 95 % certainty at least. The successes of
/// known pairs tell how many attempts are good, and what is usual how many of such are strangers who get in. An attacker's known
/// accounts, and a challenge that stops honest strangers, make it less. `expected`: usual attempts since the attack began, of
/// which only the strangers who got in are told once it is known. The features tell of the same attempts, so the fullest is
/// asked.
#[must_use]
pub fn entered_bad_to_good<'a>(features: impl IntoIterator<Item = &'a Values>, expected: f64) -> f64 {
    let is_enough =
        |all: &&Values| all.usual.known > 0.0 && all.usual.attempts >= LEARNT_MIN && all.now.attempts >= NOW_MIN;
    let full = |all: &&Values| all.now.attempts;
    let Some(all) = features.into_iter().filter(is_enough).max_by(|a, b| full(a).total_cmp(&full(b))) else {
        return 0.0;
    };
    let [known, entered] = [all.usual.known, all.usual.entered].map(|part| part / all.usual.attempts);
    let good = (poisson_at_most(all.now.known) / known + expected) * entered;
    // One in a hundred at least: a site that has never seen a stranger get in knows nothing of strangers.
    let good = good.max(all.now.entered / 100.0);
    if good > 0.0 { (poisson_at_least(all.now.entered) / good - 1.0).max(0.0) } else { 0.0 }
}

/// What the bad attempts share now, most of them first. `bad_to_good`: of the site.
#[must_use]
pub fn surging<'a>(features: impl IntoIterator<Item = (Feature, &'a Values)>, bad_to_good: f64) -> Vec<Surging> {
    let is_enough = |all: &Values| all.usual.attempts >= LEARNT_MIN && all.now.attempts >= NOW_MIN;
    let mut followed = 0;
    let mut found: Vec<(f64, Surging)> = Vec::new();
    for (feature, all) in features.into_iter().filter(|(_, all)| is_enough(all)) {
        followed += all.values.len();
        for value in &all.values {
            let Some(g) = all.surge(value) else { continue };
            let [ratio, at_least] = all.bad_to_good(value);
            if at_least >= BAD_TO_GOOD_MIN {
                let share = value.now.attempts / all.now.attempts;
                let lift = share / ((value.usual.attempts + 1.0) / (all.usual.attempts + 1.0));
                let value = value.text.clone();
                found.push((by_chance(g), Surging { feature, value, share, lift, bad_to_good: ratio }));
            }
        }
    }
    let mut found = discoveries(found, followed);
    let weigh = |trait_: &Surging| weight(trait_.feature, trait_.lift, bad_to_good);
    found.retain(|trait_| weigh(trait_) > 0.0);
    let singles: Vec<Surging> = found.iter().filter(|trait_| trait_.feature.parts().is_none()).cloned().collect();
    found.retain(|trait_| {
        let Some(parts) = trait_.feature.parts() else { return true };
        let mut values = trait_.value.split(JOINT);
        parts.iter().all(|part| {
            let value = values.next().unwrap_or_default();
            let single = singles.iter().find(|single| single.feature == *part && *single.value == *value);
            single.is_none_or(|single| weigh(trait_) >= weigh(single) + PAIR_GAIN)
        })
    });
    let bad = |trait_: &Surging| trait_.share * trait_.bad_to_good / (1.0 + trait_.bad_to_good);
    found.sort_by(|a, b| bad(b).total_cmp(&bad(a)).then_with(|| (a.feature, &a.value).cmp(&(b.feature, &b.value))));
    found.truncate(TRAITS_MAX);
    found
}

/// What somebody who has a trait adds to the odds that he is bad, in nats: how much more often the bad have it than the
/// good, by its lift over all traffic and by how much of that is bad. Never against anybody's odds.
#[must_use]
fn weight(feature: Feature, lift: f64, bad_to_good: f64) -> f64 {
    let most = if feature.is_place() { WEIGHT_MAX_OF_PLACES } else { WEIGHT_MAX };
    let ratio = ((1.0 + bad_to_good) * lift - 1.0) / bad_to_good;
    if bad_to_good > 0.0 && ratio > 1.0 { ratio.ln().min(most) } else { 0.0 }
}

/// Weight of all traits that an attempt has: of places the heaviest, and of all else. What one tells the others tell again.
#[must_use]
pub fn weight_of<'a>(
    profile: &Profile,
    traits: impl IntoIterator<Item = (Feature, &'a str, f64)>,
    bad_to_good: f64,
) -> f64 {
    let (mut place, mut other) = (0.0_f64, 0.0_f64);
    for (feature, value, lift) in traits {
        if profile.value(feature).is_some_and(|own| own == value) {
            let heaviest = if feature.is_place() { &mut place } else { &mut other };
            *heaviest = heaviest.max(weight(feature, lift, bad_to_good));
        }
    }
    (place + other).min(WEIGHT_MAX)
}

/// Whether a stranger who gets in with traits of this weight is taken for an intruder. `entered_bad_to_good`: of all strangers
/// who get in.
#[must_use]
pub fn is_intruder(weight: f64, entered_bad_to_good: f64) -> bool {
    weight >= INTRUDERS_TRAITS_MIN && entered_bad_to_good * weight.exp() >= INTRUDERS_MIN
}

/// Those that are more than chance, by the rule of Benjamini and Hochberg over `followed` tests.
fn discoveries(mut found: Vec<(f64, Surging)>, followed: usize) -> Vec<Surging> {
    found.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let is_below = |place: usize, p: f64| p <= FALSE_DISCOVERIES * (place + 1) as f64 / followed.max(1) as f64;
    let kept =
        found.iter().enumerate().rev().find(|(place, (p, _))| is_below(*place, *p)).map_or(0, |(place, _)| place + 1);
    found.truncate(kept);
    found.into_iter().map(|(_, trait_)| trait_).collect()
}

/// Twice the log-likelihood ratio of a two by two table against independence.
fn g_statistic(table: [[f64; 2]; 2]) -> f64 {
    let [[a, b], [c, d]] = table;
    let all = a + b + c + d;
    let part = |observed: f64, row: f64, column: f64| {
        let expected = row * column / all;
        if observed > 0.0 && expected > 0.0 { observed * (observed / expected).ln() } else { 0.0 }
    };
    2.0 * (part(a, a + b, a + c) + part(b, a + b, b + d) + part(c, c + d, a + c) + part(d, c + d, b + d))
}

/// Chance of a statistic of that much or more, for one degree of freedom, from above: Chernoff's bound of the
/// complementary error function.
fn by_chance(g: f64) -> f64 {
    (-g.max(0.0) / 2.0).exp()
}

/// Mean that a Poisson count has at most, with 95 % certainty (Wilson and Hilferty).
fn poisson_at_most(count: f64) -> f64 {
    let n = count + 1.0;
    n * (1.0 - 1.0 / (9.0 * n) + ONE_SIDED / (3.0 * n.sqrt())).powi(3)
}

/// Mean that a Poisson count has at least, with 95 % certainty, in the same way.
fn poisson_at_least(count: f64) -> f64 {
    if count <= 0.0 {
        return 0.0;
    }
    (count * (1.0 - 1.0 / (9.0 * count) - ONE_SIDED / (3.0 * count.sqrt())).max(0.0).powi(3)).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADD: [(&str, f64, f64); 3] = [("Firefox", 600.0, 0.6), ("Chrome", 380.0, 0.6), ("curl", 20.0, 0.1)];

    fn hashed(text: &str) -> Hashed {
        text.bytes().fold(1469, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(1_099_511_628_211))
    }

    fn add(values: &mut Values, text: &str, when: When, attempts: f64, known: f64) {
        values.add(text, hashed(text), when, Seen { attempts, known, entered: 0.0 }, 1_000);
    }

    /// A site where a known pair is behind six attempts of ten.
    fn site() -> Values {
        let mut values = Values::default();
        for (agent, attempts, known) in ADD {
            add(&mut values, agent, When::Usual, attempts, attempts * known);
        }
        values
    }

    fn names(values: &Values, bad_to_good: f64) -> Vec<String> {
        surging([(Feature::UserAgent, values)], bad_to_good).iter().map(|t| t.value.to_string()).collect()
    }

    #[test]
    fn what_an_attack_brings_is_named_and_what_grows_with_good_people_is_not() {
        let mut values = site();
        assert!(names(&values, 4.0).is_empty(), "nothing is now");
        add(&mut values, "Firefox", When::Now, 60.0, 36.0);
        add(&mut values, "python", When::Now, 200.0, 0.0);
        assert_eq!(names(&values, 2.0), ["python"]);
        let [python] = &surging([(Feature::UserAgent, &values)], 2.0)[..] else { panic!() };
        assert!(python.lift > 500.0 && (python.share - 200.0 / 260.0).abs() < 1e-9, "{python:?}");
        // A new version of the shop's own app: new, many, and most of them known.
        add(&mut values, "Shop/6.0", When::Now, 200.0, 110.0);
        assert_eq!(names(&values, 1.0), ["python"]);
        // As many of a usual agent's attempts may be bad as are needed to notice.
        let mut values = site();
        add(&mut values, "Firefox", When::Now, 60.0, 36.0);
        add(&mut values, "Chrome", When::Now, 400.0, 24.0);
        assert_eq!(names(&values, 4.0), ["Chrome"]);
    }

    #[test]
    fn a_password_that_is_tried_everywhere_is_named() {
        let mut values = Values::default();
        for n in 0..600 {
            // Everybody mistypes in his own way; some passwords many have, and mistake for this one.
            let text = if n % 50 == 0 { "123456".to_owned() } else { format!("typo {n}") };
            add(&mut values, &text, When::Usual, 1.0, 0.0);
        }
        add(&mut values, "Winter19", When::Now, 60.0, 0.0);
        (0..40).for_each(|n| add(&mut values, &format!("now {n}"), When::Now, 1.0, 0.0));
        add(&mut values, "123456", When::Now, 3.0, 0.0);
        let found: Vec<String> =
            surging([(Feature::PasswordTag, &values)], 0.5).iter().map(|t| t.value.to_string()).collect();
        assert_eq!(found, ["Winter19"]);
    }

    #[test]
    fn neither_little_history_nor_chance_names_anybody() {
        let mut young = Values::default();
        add(&mut young, "Firefox", When::Usual, 400.0, 240.0);
        add(&mut young, "python", When::Now, 400.0, 0.0);
        assert!(names(&young, 4.0).is_empty());
        let mut values = site();
        add(&mut values, "Firefox", When::Now, 600.0, 360.0);
        add(&mut values, "python", When::Now, 9.0, 0.0);
        assert!(names(&values, 0.1).is_empty(), "nine are few");
        // Of curl there is more than usual, but so there may be by chance.
        add(&mut values, "curl", When::Now, 25.0, 1.0);
        assert!(names(&values, 0.1).is_empty());
    }

    #[test]
    fn an_attackers_own_accounts_help_only_as_far_as_they_are_many() {
        let attack = |known: f64| {
            let mut values = site();
            add(&mut values, "Firefox", When::Now, 60.0, 36.0);
            add(&mut values, "python", When::Now, 400.0, known);
            names(&values, 4.0)
        };
        assert_eq!(attack(20.0), ["python"]);
        assert!(attack(80.0).is_empty());
    }

    #[test]
    fn a_pair_is_named_where_it_tells_more_than_its_parts() {
        let agents = site();
        let mut pairs = Values::default();
        let pair = |asn: u32, agent: &str| format!("{asn}{JOINT}{agent}");
        for (agent, attempts, known) in ADD {
            add(&mut pairs, &pair(1, agent), When::Usual, attempts, attempts * known);
        }
        // Firefox from another system: neither is new, both together are.
        add(&mut pairs, &pair(2, "Firefox"), When::Now, 200.0, 0.0);
        let mut now = agents.clone();
        add(&mut now, "Firefox", When::Now, 200.0, 0.0);
        let found = surging([(Feature::UserAgent, &now), (Feature::AsnUserAgent, &pairs)], 4.0);
        let told: Vec<(Feature, &str)> = found.iter().map(|t| (t.feature, &*t.value)).collect();
        assert_eq!(told, [(Feature::UserAgent, "Firefox"), (Feature::AsnUserAgent, "2\u{1f}Firefox")]);
        // An agent that is new everywhere says it all.
        let (mut agents, mut pairs) = (agents, pairs);
        add(&mut agents, "python", When::Now, 200.0, 0.0);
        add(&mut pairs, &pair(1, "python"), When::Now, 200.0, 0.0);
        let found = surging([(Feature::UserAgent, &agents), (Feature::AsnUserAgent, &pairs)], 4.0);
        assert!(!found.iter().any(|t| t.feature == Feature::AsnUserAgent && t.value.contains("python")), "{found:?}");
    }

    #[test]
    fn what_is_invented_pushes_out_what_is_invented() {
        let mut values = site();
        for n in 0..100_000 {
            add(&mut values, &format!("agent {n}"), When::Now, 1.0, 0.0);
        }
        assert_eq!(values.values.len(), VALUES_MAX);
        assert!(values.values.is_sorted_by_key(|value| value.hashed));
        for (agent, attempts, _) in ADD {
            let held = values.values.iter().find(|value| *value.text == *agent);
            assert!(held.is_some_and(|value| value.usual.attempts.total_cmp(&attempts).is_eq()), "{agent}");
        }
        assert!(values.now.attempts > 99_999.0);
    }

    #[test]
    fn now_fades_in_minutes_and_the_usual_in_weeks() {
        let mut values = site();
        add(&mut values, "curl", When::Now, 100.0, 0.0);
        values.fade(1_000 + 120_000);
        assert!((values.now.attempts - 25.0).abs() < 1e-6 && values.usual.attempts > 999.0, "{values:?}");
    }

    #[test]
    fn discoveries_are_those_of_the_rule_done_slowly() {
        let of = |ps: &[f64], followed: usize| {
            let found = ps.iter().enumerate().map(|(n, p)| {
                let value = n.to_string().into();
                let feature = Feature::Asn;
                (*p, Surging { feature, value, share: 0.1, lift: 9.0, bad_to_good: 9.0 })
            });
            let mut found: Vec<String> =
                discoveries(found.collect(), followed).into_iter().map(|t| t.value.to_string()).collect();
            found.sort();
            found
        };
        let slowly = |ps: &[f64], followed: usize| {
            let sorted = {
                let mut sorted = ps.to_vec();
                sorted.sort_by(f64::total_cmp);
                sorted
            };
            let last = (1..=ps.len())
                .filter(|k| sorted[k - 1] * followed as f64 <= FALSE_DISCOVERIES * *k as f64)
                .max()
                .map(|k| sorted[k - 1]);
            let mut kept: Vec<String> =
                (0..ps.len()).filter(|n| last.is_some_and(|last| ps[*n] <= last)).map(|n| n.to_string()).collect();
            kept.sort();
            kept
        };
        let cases: [&[f64]; 5] =
            [&[], &[1e-9], &[1e-7, 3e-9, 0.5], &[2e-8, 1e-8, 9e-9, 3e-8], &[1e-3, 1e-12, 2.9e-8, 1.9e-8, 1e-8]];
        for ps in cases {
            for followed in [ps.len().max(1), 10, 100, 1_000] {
                assert_eq!(of(ps, followed), slowly(ps, followed), "{ps:?} of {followed}");
            }
        }
        // Of 128 that are followed, one needs a statistic of 37.3.
        assert!(of(&[by_chance(36.0)], 128).is_empty() && of(&[by_chance(38.0)], 128) == ["0"]);
    }

    #[test]
    fn statistics_are_those_of_the_books() {
        // Sokal and Rohlf's way of writing it, done by hand for one table.
        assert!((g_statistic([[10.0, 20.0], [30.0, 40.0]]) - 0.8043).abs() < 1e-3);
        assert!(g_statistic([[10.0, 20.0], [100.0, 200.0]]).abs() < 1e-9);
        for (count, most) in [(0.0, 2.9957), (1.0, 4.744), (10.0, 16.96), (100.0, 118.1)] {
            assert!((poisson_at_most(count) / most - 1.0).abs() < 0.01, "{count}: {}", poisson_at_most(count));
        }
        for (count, least) in [(0.0, 0.0), (1.0, 0.0513), (10.0, 5.425), (100.0, 84.14)] {
            assert!((poisson_at_least(count) - least).abs() < 0.02, "{count}: {}", poisson_at_least(count));
        }
    }

    #[test]
    fn strangers_who_get_in_are_the_attacks_as_far_as_they_are_more_than_usual() {
        let odds = |known: f64, entered: f64, expected: f64| {
            let mut values = Values::default();
            // Of ten attempts six are known pairs', and one is a stranger who gets in.
            let usual = Seen { attempts: 1_000.0, known: 600.0, entered: 100.0 };
            values.add("Firefox", 1, When::Usual, usual, 1_000);
            values.add("Firefox", 1, When::Now, Seen { attempts: 500.0, known, entered }, 1_000);
            entered_bad_to_good([&values], expected)
        };
        let plenty = odds(60.0, 60.0, 0.0);
        assert!((2.0..3.5).contains(&plenty), "{plenty}");
        assert!(odds(60.0, 60.0, 100.0) < 0.5 * plenty, "some of them came before anybody counted");
        assert!(odds(60.0, 14.0, 0.0) <= 0.0, "as many as usual");
        assert!(odds(0.0, 400.0, 0.0) <= 99.0);
        assert!(entered_bad_to_good([&site()], 0.0) <= 0.0, "nothing is now");
        // Nobody is an intruder for his traits alone, nor for the time at which he comes.
        assert!(is_intruder(4.0, 0.2) && !is_intruder(4.0, 0.1) && !is_intruder(1.9, 90.0) && !is_intruder(4.0, 0.0));
    }

    #[test]
    fn weights_are_capped_and_never_excuse() {
        assert!(weight(Feature::UserAgent, 1e6, 4.0) == WEIGHT_MAX);
        assert!(weight(Feature::Country, 1e6, 4.0) == WEIGHT_MAX_OF_PLACES);
        assert!(weight(Feature::UserAgent, 0.3, 4.0) == 0.0 && weight(Feature::UserAgent, 9.0, 0.0) == 0.0);
        let profile = Profile { asn: Some(7), user_agent: Some("curl".into()), ..Profile::default() };
        let traits =
            [(Feature::Asn, "7", 100.0), (Feature::AsnUserAgent, "7\u{1f}curl", 3.0), (Feature::Country, "FR", 9.0)];
        let pair = weight(Feature::AsnUserAgent, 3.0, 1.0);
        assert!((weight_of(&profile, traits, 1.0) - (WEIGHT_MAX_OF_PLACES + pair)).abs() < 1e-9);
        assert_eq!(profile.value(Feature::UserAgentTlsFingerprint), None);
        let long = "ä".repeat(100);
        assert_eq!(cut(&long).len(), 128);
    }
}
