//! Login events of a site under attack, steadily: people, an office, addresses that try many accounts, accounts that
//! many addresses try, what an edge refuses, and what publishers get wrong. One seed gives one sequence; only the times
//! are those of the run.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portcullis::app::Connection;
use portcullis::event::wire::login_event_to_json;
use portcullis::event::{Activity, FailureReason, LoginEvent, Millis, Outcome};
use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::json;

/// Partitions of `login-events`.
const PARTITIONS: u64 = 4;
/// Events a second.
const RATE: u64 = 120;
const TICK: Duration = Duration::from_millis(50);
/// For so long the same addresses are at work.
const SHIFT_MS: Millis = 4_000;
/// A new tenant comes under attack as often.
const TENANT_MS: Millis = 60_000;
/// Events remembered to be published twice.
const REMEMBERED: usize = 300;

/// Chances from one seed.
#[derive(Debug)]
pub struct Dice(Pcg64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(Pcg64::seed_from_u64(seed))
    }

    /// Uniform in `0..n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0.next_u64() % n
    }

    /// True in `percent` of a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

pub fn now() -> Millis {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
    Millis::try_from(since.as_millis()).unwrap()
}

/// A publisher at work, until it is told to stop.
pub struct Publisher {
    stop: Arc<AtomicBool>,
    published: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Publisher {
    pub fn start(connection: &Connection, seed: u64) -> Publisher {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &connection.client.bootstrap)
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("message.timeout.ms", "300000")
            .set("reconnect.backoff.max.ms", "500")
            .set("log_level", "0")
            .create()
            .unwrap();
        let (events, exemptions) = (connection.topics.public("login-events"), connection.topics.public("exemptions"));
        let (stop, published) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, counted) = (Arc::clone(&stop), Arc::clone(&published));
        let thread = std::thread::spawn(move || {
            let started = Instant::now();
            let mut traffic = Traffic::new(seed, now());
            while !told.load(Ordering::Relaxed) {
                let due = RATE * u64::try_from(started.elapsed().as_millis()).unwrap() / 1000;
                while counted.load(Ordering::Relaxed) < due {
                    let (partition, value) = traffic.next(now());
                    let record = BaseRecord::<(), [u8]>::to(&events).partition(partition).payload(&value);
                    publish(&producer, record);
                    counted.fetch_add(1, Ordering::Relaxed);
                    if let Some((key, value)) = traffic.exemption() {
                        let mut record = BaseRecord::<[u8], [u8]>::to(&exemptions).key(key.as_bytes());
                        record.payload = value.as_deref();
                        publish(&producer, record);
                    }
                }
                producer.poll(TICK);
            }
            producer.flush(Duration::from_secs(120)).unwrap();
        });
        Publisher { stop, published, thread: Some(thread) }
    }

    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// Stops once everything is on the topic.
    pub fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the publisher comes to its end");
        }
        self.published()
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn publish<K: rdkafka::message::ToBytes + ?Sized>(producer: &BaseProducer, mut record: BaseRecord<'_, K, [u8]>) {
    loop {
        match producer.send(record) {
            Ok(()) => return,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                producer.poll(TICK);
                record = back;
            }
            Err((error, _)) => panic!("{error}"),
        }
    }
}

struct Traffic {
    dice: Dice,
    seed: u64,
    began: Millis,
    now: Millis,
    count: u64,
    recent: VecDeque<Vec<u8>>,
    exemptions: u64,
}

impl Traffic {
    fn new(seed: u64, began: Millis) -> Traffic {
        let dice = Dice::new(seed);
        Traffic { dice, seed, began, now: began, count: 0, recent: VecDeque::new(), exemptions: 0 }
    }

    /// Partition and bytes of the next event.
    fn next(&mut self, now: Millis) -> (i32, Vec<u8>) {
        self.now = now;
        self.count += 1;
        let partition = i32::try_from(self.dice.below(PARTITIONS)).unwrap();
        let value = match self.dice.below(100) {
            0 => b"{\"event_id\":\"no account, no".to_vec(),
            1..=3 if !self.recent.is_empty() => self.again(),
            4 if !self.recent.is_empty() => self.conflicting(),
            _ => {
                let event = self.event();
                login_event_to_json(&event)
            }
        };
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(value.clone());
        (partition, value)
    }

    /// Now and then somebody becomes exempt, or is it no longer.
    fn exemption(&mut self) -> Option<(String, Option<Vec<u8>>)> {
        if !self.count.is_multiple_of(RATE * 5) {
            return None;
        }
        self.exemptions += 1;
        let n = self.exemptions;
        let (scope, value) = match n / 2 % 3 {
            0 => ("CIDR", format!("45.10.{}.0/24", n / 2 % 8)),
            1 => ("IP", attacker("shop", n / 2 % 40)),
            _ => ("ACCOUNT", target(n / 2)),
        };
        // An IPv6 attacker has no address that could be exempt.
        let (scope, value) = if value.contains(':') { ("CIDR", "45.10.3.0/24".to_owned()) } else { (scope, value) };
        let key = format!("shop|{scope}|{value}");
        let exemption = json!({
            "tenant": "shop", "scope": scope, "value": value, "since": self.now, "until": self.now + 20_000,
            "reason": "chaos", "actor": null, "generation": self.now,
        });
        Some((key, n.is_multiple_of(2).then(|| exemption.to_string().into_bytes())))
    }

    /// A batch that is published twice.
    fn again(&mut self) -> Vec<u8> {
        let at = self.dice.below(self.recent.len() as u64) as usize;
        self.recent[at].clone()
    }

    /// Another account under an id that was used.
    fn conflicting(&mut self) -> Vec<u8> {
        let again = self.again();
        match serde_json::from_slice::<serde_json::Value>(&again) {
            Ok(mut event) => {
                event["account"] = json!(format!("v{}@mail.example", self.dice.below(400)));
                event.to_string().into_bytes()
            }
            Err(_) => again,
        }
    }

    fn event(&mut self) -> LoginEvent {
        let tenant = if self.dice.chance(60) {
            "shop".to_owned()
        } else {
            format!("bank-{}", (self.now - self.began) / TENANT_MS)
        };
        let is_calm = tenant == "shop";
        let mut event = match (self.dice.below(100), is_calm) {
            (0..50, true) | (0..12, false) => self.person(),
            (50..62, true) | (12..15, false) => self.office(),
            (62..72, true) | (15..75, false) => self.attack(&tenant),
            (72..77, true) | (75..80, false) => self.nameless(&tenant),
            (77..86, true) | (80..90, false) => self.guess(),
            (86..92, true) | (90..96, false) => self.refused(&tenant),
            (92..95, _) => self.carried(),
            (_, _) => self.private(),
        };
        event.tenant = tenant;
        event.event_id = format!("e{}", self.count);
        event.occurred_at = match self.dice.below(200) {
            0 => self.now - 6 * 60_000,
            1 => self.now - 90_000,
            2 => self.now + 20_000,
            _ => self.now - Millis::try_from(self.dice.below(800)).unwrap(),
        };
        if self.dice.chance(1) {
            event.failure_reason = FailureReason::SystemError;
        }
        if self.dice.chance(1) {
            event.activity = Activity::StatusCheck;
        }
        event
    }

    fn blank(source_ip: String, account: String) -> LoginEvent {
        LoginEvent { source_ip, account, outcome: Outcome::Failure, ..LoginEvent::default() }
    }

    /// Somebody at home, who now and then mistypes the same password twice.
    fn person(&mut self) -> LoginEvent {
        let n = self.dice.below(60);
        let source = match n % 6 {
            0 => format!("2001:db8:{}:{n}::{}", n % 3, 1 + self.dice.below(5)),
            _ => format!("198.51.{}.{n}", 100 + n % 3),
        };
        let mut event = Traffic::blank(source, format!("User{n}@mail.example"));
        event.user_agent = Some("browser".to_owned());
        event.account_created_at = n.is_multiple_of(7).then(|| self.now - 2 * 86_400_000);
        if self.dice.chance(85) {
            event.outcome = Outcome::Success;
        } else if self.dice.chance(60) {
            event.password_tag = Some(format!("{:x}", n + self.dice.below(2)));
        }
        event
    }

    fn office(&mut self) -> LoginEvent {
        let n = self.dice.below(30);
        let mut event = Traffic::blank("192.0.2.10".to_owned(), format!("clerk{n}@mail.example"));
        event.outcome = if self.dice.chance(70) { Outcome::Success } else { Outcome::Failure };
        event
    }

    /// The networks at work in this shift, five addresses each.
    fn at_work(&mut self, tenant: &str) -> String {
        let shift = u64::try_from((self.now - self.began) / SHIFT_MS).unwrap();
        let network = Dice::new(self.seed ^ shift ^ (tenant.len() as u64)).below(8);
        let second = Dice::new(self.seed.rotate_left(7) ^ shift).below(8);
        let network = if tenant == "shop" || self.dice.chance(50) { network } else { second };
        attacker(tenant, network * 5 + self.dice.below(5))
    }

    fn attack(&mut self, tenant: &str) -> LoginEvent {
        let source = self.at_work(tenant);
        let mut event = Traffic::blank(source, format!("v{}@mail.example", self.dice.below(400)));
        match self.dice.below(100) {
            // They get in, at somebody's who is known from before.
            0..4 => {
                event.account = format!("user{}@mail.example", self.dice.below(60));
                event.outcome = Outcome::Success;
            }
            4..40 => event.failure_reason = FailureReason::UnknownAccount,
            40..60 => event.account_exists = Some(false),
            _ => event.failure_reason = FailureReason::WrongPassword,
        }
        event
    }

    fn nameless(&mut self, tenant: &str) -> LoginEvent {
        let n = 30 + self.dice.below(4);
        Traffic::blank(attacker(tenant, n), String::new())
    }

    /// Many sources at one account.
    fn guess(&mut self) -> LoginEvent {
        let shift = u64::try_from((self.now - self.began) / (2 * SHIFT_MS)).unwrap();
        let source = format!("185.{}.1.9", 1 + self.dice.below(9));
        let mut event = Traffic::blank(source, target(shift));
        event.failure_reason = FailureReason::WrongPassword;
        event
    }

    /// What an edge or a challenge stopped.
    fn refused(&mut self, tenant: &str) -> LoginEvent {
        let source = self.at_work(tenant);
        let mut event = Traffic::blank(source, String::new());
        event.outcome = if self.dice.chance(70) { Outcome::Blocked } else { Outcome::Challenged };
        if self.dice.chance(40) {
            event.attributes.insert("count".to_owned(), (1 + self.dice.below(9)).to_string());
        }
        event
    }

    /// Through an address that is the site's own proxy.
    fn carried(&mut self) -> LoginEvent {
        let n = self.dice.below(300);
        let mut event = Traffic::blank("203.0.113.50".to_owned(), format!("carried{n}@mail.example"));
        event.outcome = if self.dice.chance(85) { Outcome::Success } else { Outcome::Failure };
        event
    }

    /// An address that can never be blocked.
    fn private(&mut self) -> LoginEvent {
        Traffic::blank("10.1.2.3".to_owned(), format!("v{}@mail.example", self.dice.below(100)))
    }
}

/// Forty addresses in eight networks of a tenant; the last five are of IPv6.
fn attacker(tenant: &str, n: u64) -> String {
    let group = 10 + tenant.len() as u64 % 3;
    if n >= 35 { format!("2a00:bad:{group}:{n}::1") } else { format!("45.{group}.{}.{}", n / 5, n % 5 + 1) }
}

/// An account that many guess at.
fn target(n: u64) -> String {
    format!("target{n}@mail.example")
}
