//! A sink from the topic to the edge: who writes to the topics, the sink in a thread of its own, and a clock that a test
//! moves by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::JoinHandle;

use apache_avro::Schema;
use apache_avro::writer::datum::GenericDatumWriter;
use portcullis::app::receipts::ReceiptOptions;
use portcullis::app::sink::{EdgeArgs, SinkContext, SinkStatus, Watched, run};
use portcullis::app::{Connection, Ending};
use portcullis::event::wire::{Encoder, Format, SchemaIds};
use portcullis::event::{Action, BlocklistEntry, Exemption, Millis, Scope};
use portcullis::topology::exemptions::Exemptions;
use portcullis::topology::networks::CurrentNetworks;
use rdkafka::producer::BaseProducer;

use super::records::{DEADLINE, flush, producer, send};
use super::until;

pub const START: Millis = 1_561_682_490_000;
pub const HOUR: Millis = 3_600_000;
/// What passes between two looks of a sink at its clock.
pub const LOOK: Millis = 50;

/// A block of one address, from a wide playbook.
pub fn entry(tenant: &str, ip: &str, generation: i64, until: Option<Millis>) -> BlocklistEntry {
    BlocklistEntry {
        tenant: tenant.to_owned(),
        scope: Scope::Ip,
        value: ip.to_owned(),
        action: Action::Block,
        since: START,
        until,
        generation,
        reason: "a test".to_owned(),
        playbook: None,
        verdict_id: None,
        incident_id: None,
        actor: None,
        wide: true,
    }
}

/// An address of the tenant `shop` that is never restricted.
pub fn exemption(ip: &str) -> Exemption {
    Exemption {
        tenant: "shop".to_owned(),
        scope: Scope::Ip,
        value: ip.to_owned(),
        since: 0,
        until: None,
        reason: "a test".to_owned(),
        actor: None,
        generation: 1,
    }
}

/// The time of the machine.
pub fn now() -> Millis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Millis::try_from(since.as_millis()).unwrap()
}

/// Writes to the topics of one installation.
pub struct Publisher<'a> {
    producer: BaseProducer,
    connection: &'a Connection,
    pub encoder: Encoder,
}

impl<'a> Publisher<'a> {
    pub fn new(connection: &'a Connection, format: Format) -> Self {
        let encoder = Encoder::new(format, SchemaIds::default()).unwrap();
        Publisher { producer: producer(&connection.client.bootstrap, None), connection, encoder }
    }

    pub fn put(&self, name: &str, key: &str, value: Option<&[u8]>, generation: Option<i64>) {
        send(&self.producer, &self.connection.topics.public(name), None, key.as_bytes(), value, generation);
        flush(&self.producer);
    }

    pub fn block(&self, entry: &BlocklistEntry) {
        let key = format!("{}|{}|{}", entry.tenant, entry.scope, entry.value);
        self.put("blocklist", &key, Some(&self.encoder.encode("blocklist", entry).unwrap()), None);
    }

    /// As many as you like, without waiting for each.
    pub fn block_all(&self, entries: impl Iterator<Item = BlocklistEntry>) {
        let topic = self.connection.topics.public("blocklist");
        for (n, entry) in entries.enumerate() {
            let key = format!("{}|{}|{}", entry.tenant, entry.scope, entry.value);
            let value = self.encoder.encode("blocklist", &entry).unwrap();
            send(&self.producer, &topic, None, key.as_bytes(), Some(&value), None);
            if n % 10_000 == 9_999 {
                flush(&self.producer);
            }
        }
        flush(&self.producer);
    }

    pub fn lift(&self, tenant: &str, ip: &str, generation: i64) {
        self.put("blocklist", &format!("{tenant}|IP|{ip}"), None, Some(generation));
    }

    pub fn lift_key(&self, key: &str, generation: i64) {
        self.put("blocklist", key, None, Some(generation));
    }

    pub fn exempt(&self, ip: &str) {
        let exemption = exemption(ip);
        // As an operator's tool would write it: in Avro, under an id of its own registry.
        let schema = Schema::parse_str(include_str!("../../../schemas/exemption.avsc")).unwrap();
        let mut value = vec![0, 0, 0, 0, 77];
        GenericDatumWriter::builder(&schema).build().unwrap().write_ser(&mut value, &exemption).unwrap();
        self.put("exemptions", &format!("shop|IP|{ip}"), Some(&value), None);
    }
}

/// A sink in a thread of its own.
pub struct Running {
    clock: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
    /// Where it looks autonomous systems and countries up.
    pub networks: Arc<CurrentNetworks>,
    pub watched: Arc<Watched>,
    thread: Option<JoinHandle<Result<String, String>>>,
}

impl Running {
    pub fn start(connection: &Connection, edge: EdgeArgs) -> Self {
        let clock = Arc::new(AtomicI64::new(START));
        let hand = Arc::clone(&clock);
        // It runs on by itself, a little at every look, so that what is rate-limited comes to its turn.
        Running::start_by(connection, edge, clock, move || hand.fetch_add(LOOK, Ordering::Relaxed))
    }

    /// By the clock of the machine.
    pub fn start_now(connection: &Connection, edge: EdgeArgs) -> Self {
        Running::start_by(connection, edge, Arc::default(), now)
    }

    fn start_by(
        connection: &Connection,
        edge: EdgeArgs,
        clock: Arc<AtomicI64>,
        look: impl Fn() -> Millis + Send + 'static,
    ) -> Self {
        let (stop, watched) = (Arc::new(AtomicBool::new(false)), Arc::new(Watched::default()));
        let (thread_stop, thread_watched) = (Arc::clone(&stop), Arc::clone(&watched));
        let networks: Arc<CurrentNetworks> = Arc::default();
        let thread_networks = Arc::clone(&networks);
        let connection = connection.clone();
        let thread = std::thread::spawn(move || {
            let context = SinkContext {
                connection: &connection,
                exemptions: Exemptions::default(),
                clock: look,
                stop: &thread_stop,
                watched: &thread_watched,
                receipts: ReceiptOptions { format: Format::Avro, registry: None },
                networks: thread_networks,
            };
            let mut out = Vec::new();
            match run(&edge, context, &mut out) {
                Ok(Ending::Well) => Ok(String::from_utf8(out).unwrap()),
                Ok(Ending::Different) => Err("different".to_owned()),
                Err(e) => Err(format!("{e:#}")),
            }
        });
        Running { clock, stop, networks, watched, thread: Some(thread) }
    }

    pub fn now(&self) -> Millis {
        self.clock.load(Ordering::Relaxed)
    }

    pub fn pass(&self, ms: Millis) {
        self.clock.fetch_add(ms, Ordering::Relaxed);
    }

    #[track_caller]
    pub fn until(&self, what: &str, condition: impl Fn(&SinkStatus) -> bool) {
        until(DEADLINE, what, || condition(&self.watched.get()).then_some(()));
    }

    pub fn stop(mut self) -> Result<String, String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }

    /// Waits for a sink that ends by itself.
    pub fn end(mut self) -> Result<String, String> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that failed must not leave a thread behind that works on its folder.
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
