//! Measures a running job: from when it is ready to the commit with which its last stage is through.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use portcullis::log::ClientOptions;
use portcullis::log::follow::{Followed, Follower, ReadFrom};
use portcullis::topology::Stage;
use serde_json::{Map, Value, json};

use crate::kafka::{Place, committed, consumer, ends, ends_at};
use crate::process::{busy_seconds, bytes_under, cpu_seconds, epoch_ms, memory_mib, now, pause};
use crate::{Result, print};

/// How often committed offsets and CPU times are looked at; the peers look every 100 ms.
const SAMPLE: Duration = Duration::from_millis(20);
const READY_MAX: Duration = Duration::from_secs(120);
const OUTPUTS: [&str; 5] = ["verdicts", "blocklist", "incidents", "attack-status", "login-events-dlq"];

/// Measure a running job until it is through with all of login-events
#[derive(Debug, Args)]
pub(crate) struct Meter {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    application: String,
    /// In front of every topic's name
    #[arg(long, default_value = "")]
    prefix: String,
    #[arg(long)]
    pid: u32,
    /// 0: unknown
    #[arg(long, default_value_t = 0)]
    broker_pid: u32,
    /// Where it serves /readyz and /status
    #[arg(long)]
    listen: String,
    /// What the line calls it
    #[arg(long, default_value = "portcullis")]
    name: String,
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// Folder in which the broker keeps its partitions
    #[arg(long)]
    broker_dir: Option<PathBuf>,
    /// Keep what it wrote to each output topic in this folder, as JSON lines
    #[arg(long)]
    outputs: Option<PathBuf>,
    /// Seconds after which it is given up
    #[arg(long, default_value_t = 3600)]
    limit: u64,
}

/// One look at everything.
#[derive(Debug, Clone)]
struct Sample {
    at: Instant,
    epoch_ms: i64,
    cpu: f64,
    broker_cpu: f64,
    /// Of the whole machine.
    busy: f64,
    committed: BTreeMap<Place, i64>,
}

impl Sample {
    /// How far it is, from 0 to 1: the mean of the stages, each by its own offsets. Frames hold many events, and intake
    /// may be far ahead of the others.
    fn share_of(&self, last: &Sample) -> f64 {
        let mut stages = BTreeMap::<&str, (i64, i64)>::new();
        for ((topic, partition), end) in &last.committed {
            let (done, all) = stages.entry(topic).or_default();
            *done += self.committed.get(&(topic.clone(), *partition)).copied().unwrap_or(0);
            *all += end;
        }
        let shares = stages.values().map(|(done, all)| *done as f64 / (*all).max(1) as f64);
        shares.sum::<f64>() / stages.len().max(1) as f64
    }

    fn reaches(&self, wanted: &BTreeMap<Place, i64>) -> bool {
        wanted.iter().all(|(place, end)| self.committed.get(place).copied().unwrap_or(0) >= *end)
    }
}

impl Meter {
    pub(crate) fn run(&self) -> Result<()> {
        let inputs = self.inputs();
        let group = consumer(&self.bootstrap, &format!("{}{}", self.prefix, self.application), &[])?;
        let events = ends(&group, &inputs[..1])?;
        let places: Vec<Place> = ends(&group, &inputs)?.into_keys().collect();
        let look = move |meter: &Meter| -> Result<Sample> {
            let committed = committed(&group, places.iter())?;
            let cpu = cpu_seconds(meter.pid).ok_or("the job has ended")?;
            let broker_cpu = cpu_seconds(meter.broker_pid).unwrap_or(f64::NAN);
            let busy = busy_seconds().unwrap_or(f64::NAN);
            Ok(Sample { at: now(), epoch_ms: epoch_ms(), cpu, broker_cpu, busy, committed })
        };
        self.wait_until_ready()?;
        let samples = self.sample_until_through(look, &events)?;
        let report = self.report(&samples, events.values().sum())?;
        print(&Value::Object(report));
        Ok(())
    }

    /// The topics that the stages read, in the order of the flow.
    fn inputs(&self) -> Vec<String> {
        let name = |stage: Stage| match stage.input_suffix() {
            None => format!("{}login-events", self.prefix),
            Some(suffix) => format!("{}{}-{suffix}", self.prefix, self.application),
        };
        Stage::ALL.into_iter().map(name).collect()
    }

    fn wait_until_ready(&self) -> Result<()> {
        let started = now();
        while get(&self.listen, "/readyz").is_none_or(|(status, _)| status != 200) {
            if cpu_seconds(self.pid).is_none() {
                return Err("the job has ended before it was ready".into());
            }
            if started.elapsed() > READY_MAX {
                return Err("the job does not get ready".into());
            }
            pause(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Looks again and again, on a thread of its own so that no question of ours makes a gap, and finds the first look
    /// at which every stage was through with what the one before it had sent until it was through itself. Marks go on
    /// coming, so nothing ever stands at the end of an internal topic.
    fn sample_until_through(
        &self,
        look: impl Fn(&Meter) -> Result<Sample> + Sync,
        events: &BTreeMap<Place, i64>,
    ) -> Result<Vec<Sample>> {
        let samples: Arc<Mutex<Vec<Sample>>> = Arc::default();
        let is_through = std::sync::atomic::AtomicBool::new(false);
        let deadline = now() + Duration::from_secs(self.limit);
        std::thread::scope(|scope| {
            let sampler = scope.spawn(|| -> Result<()> {
                while !is_through.load(std::sync::atomic::Ordering::Relaxed) {
                    // A broker that is hard at work may leave a question unanswered.
                    match look(self) {
                        Ok(sample) => samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample),
                        Err(error) if cpu_seconds(self.pid).is_none() => return Err(error),
                        Err(_) => {}
                    }
                    pause(SAMPLE);
                }
                Ok(())
            });
            let first_that_reaches = |wanted: &BTreeMap<Place, i64>| -> Result<usize> {
                let mut seen = 0;
                loop {
                    {
                        let samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
                        if let Some(at) = samples[seen..].iter().position(|sample| sample.reaches(wanted)) {
                            return Ok(seen + at);
                        }
                        seen = samples.len();
                    }
                    if sampler.is_finished() {
                        return Err("the job ended, or the broker gave no answer".into());
                    }
                    if now() > deadline {
                        return Err(format!("not through after {} s", self.limit).into());
                    }
                    pause(SAMPLE);
                }
            };
            let find = || -> Result<usize> {
                let mut through = first_that_reaches(events)?;
                for topic in self.inputs().iter().skip(1) {
                    let time = samples.lock().unwrap_or_else(PoisonError::into_inner)[through].epoch_ms;
                    let wanted = ends_at(&self.bootstrap, topic, time)?;
                    through = through.max(first_that_reaches(&wanted)?);
                }
                Ok(through)
            };
            let found = find();
            is_through.store(true, std::sync::atomic::Ordering::Relaxed);
            let sampled = sampler.join().map_err(|_| "the sampler panicked")?;
            let through = match (found, sampled) {
                (Ok(through), _) => through,
                (Err(_), Err(error)) | (Err(error), Ok(())) => return Err(error),
            };
            let mut samples = samples.lock().unwrap_or_else(PoisonError::into_inner).clone();
            samples.truncate(through + 1);
            Ok(samples)
        })
    }

    fn report(&self, samples: &[Sample], events: i64) -> Result<Map<String, Value>> {
        let [first, .., last] = samples else { return Err("it was through before the first look".into()) };
        let total = events;
        let events = events as f64;
        let seconds = (last.at - first.at).as_secs_f64();
        let (cpu, broker_cpu) = (last.cpu - first.cpu, last.broker_cpu - first.broker_cpu);
        let half = samples.iter().find(|sample| sample.share_of(last) >= 0.5).unwrap_or(first);
        let warm_events = events * (1.0 - half.share_of(last));
        let status = get(&self.listen, "/status").map(|(_, body)| body).unwrap_or_default();
        let status: Value = serde_json::from_str(&status).unwrap_or_default();
        let mut line = Map::new();
        let mut put = |name: &str, value: Value| line.insert(name.to_owned(), value);
        put("system", json!(self.name));
        put("events", json!(total));
        put("seconds", rounded(seconds));
        put("events_per_s", json!((events / seconds).round()));
        put("cpu_seconds", rounded(cpu));
        put("broker_cpu_seconds", rounded(broker_cpu));
        // What the machine did for others meanwhile: our own looks, and whoever shares it.
        put("others_cpu_seconds", rounded(last.busy - first.busy - cpu - broker_cpu));
        put("cpu_us_per_event", rounded(cpu * 1e6 / events));
        put("broker_cpu_us_per_event", rounded(broker_cpu * 1e6 / events));
        put("peak_rss_mb", json!(memory_mib(self.pid, "VmHWM")));
        put("warm_events_per_s", json!((warm_events / (last.at - half.at).as_secs_f64()).round()));
        put("warm_cpu_us_per_event", rounded((last.cpu - half.cpu) * 1e6 / warm_events));
        for (name, value) in self.outputs()? {
            put(&name, value);
        }
        for name in ["commits", "aborts", "rebalances", "counts"] {
            put(name, status[name].clone());
        }
        if let Some(folder) = &self.state_dir {
            put("state_dir_mb", megabytes(bytes_under(folder, &|_| true)?));
        }
        if let Some(folder) = &self.broker_dir {
            let of = |suffix: &str| -> Result<Value> {
                let start = format!("{}{}-", self.prefix, self.application);
                Ok(megabytes(bytes_under(folder, &|name: &str| name.starts_with(&start) && name.contains(suffix))?))
            };
            put("changelog_mb", of("-changelog-")?);
            put("frames_mb", of("-attempts-by-")?);
            put("partials_mb", of("-site-partials-")?);
        }
        Ok(line)
    }

    /// What it wrote, as committed: records of each topic, and verdicts by playbook.
    fn outputs(&self) -> Result<BTreeMap<String, Value>> {
        let mut found = BTreeMap::new();
        for topic in OUTPUTS {
            let mut follower = Follower::new(
                &ClientOptions::new(&self.bootstrap),
                &[format!("{}{topic}", self.prefix)],
                ReadFrom::Start,
            )?;
            let mut kept = match &self.outputs {
                Some(folder) => {
                    std::fs::create_dir_all(folder)?;
                    let file = std::fs::File::create(folder.join(format!("{}-{topic}.jsonl", self.name)))?;
                    Some(std::io::BufWriter::new(file))
                }
                None => None,
            };
            let (mut records, mut by_playbook) = (0u64, BTreeMap::<String, u64>::new());
            loop {
                match follower.poll(Duration::from_millis(50))? {
                    Followed::Record(record) => {
                        records += 1;
                        let value = record.value.unwrap_or_default();
                        if topic == "verdicts" {
                            let verdict: Value = serde_json::from_slice(&value)?;
                            let playbook = verdict["playbook"].as_str().unwrap_or("?").to_owned();
                            *by_playbook.entry(playbook).or_default() += 1;
                        }
                        if let Some(kept) = &mut kept {
                            kept.write_all(&value)?;
                            kept.write_all(b"\n")?;
                        }
                    }
                    Followed::CaughtUp => break,
                    Followed::Idle => {}
                }
            }
            found.insert(topic.replace('-', "_"), json!(records));
            if topic == "verdicts" {
                found.insert("verdicts_by_playbook".to_owned(), json!(by_playbook));
            }
        }
        Ok(found)
    }
}

/// Three digits behind the point are more than these figures are good for.
fn rounded(figure: f64) -> Value {
    if figure.is_finite() { json!((figure * 1000.0).round() / 1000.0) } else { Value::Null }
}

fn megabytes(bytes: u64) -> Value {
    json!((bytes as f64 / 1e5).round() / 10.0)
}

/// Asks a job; `None` when nobody answers.
pub(crate) fn get(listen: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(listen).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.get(9..12)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}
