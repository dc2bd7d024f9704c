//! What the threads of `portcullis notify` share: the incidents, and how everything stands.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{counter, gauge};
use serde::Serialize;

use crate::console::Shown;
use crate::event::Millis;
use crate::log::Incoming;
use crate::notify::{Incidents, Rendered, Status};

/// How it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NotifyStatus {
    /// The topic was read to the end that it had at start, and people are told.
    pub caught_up: bool,
    pub records: u64,
    /// Records that could not be used.
    pub records_refused: u64,
    /// Incidents that are held.
    pub incidents: usize,
    pub partitions_behind: usize,
    pub cluster_failures: u64,
    pub destinations: BTreeMap<String, Status>,
}

#[derive(Debug, Default)]
struct Held {
    incidents: Incidents,
    status: NotifyStatus,
}

/// The incidents and the status, for every thread.
#[derive(Debug, Default)]
pub struct NotifyWatched {
    held: Mutex<Held>,
    changed: Condvar,
}

impl NotifyWatched {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[must_use]
    pub fn get(&self) -> NotifyStatus {
        let held = self.held();
        NotifyStatus {
            incidents: held.incidents.len(),
            records_refused: held.incidents.refused(),
            ..held.status.clone()
        }
    }

    pub(super) fn set(&self, destination: &str, status: Status) {
        let mut held = self.held();
        match held.status.destinations.get_mut(destination) {
            Some(known) => *known = status,
            None => drop(held.status.destinations.insert(destination.to_owned(), status)),
        }
    }

    pub(super) fn take(&self, records: &[Incoming]) {
        if records.is_empty() {
            return;
        }
        let mut held = self.held();
        let mut has_news = false;
        for record in records {
            held.status.records += 1;
            let key = record.key.as_deref().unwrap_or_default();
            has_news |= held.incidents.take(key, record.value.as_deref());
        }
        drop(held);
        if has_news {
            self.changed.notify_all();
        }
    }

    pub(super) fn caught_up(&self) {
        self.held().status.caught_up = true;
        self.changed.notify_all();
    }

    pub(super) fn forget_over(&self, before: Millis) {
        self.held().incidents.forget_over(before);
    }

    pub(super) fn read(&self, behind: usize, failures: u64) {
        let mut held = self.held();
        held.status.partitions_behind = behind;
        held.status.cluster_failures = failures;
    }

    /// `None` before everything was read that was there at start.
    pub(super) fn with_incidents<T>(&self, look: impl FnOnce(&Incidents) -> T) -> Option<T> {
        let held = self.held();
        held.status.caught_up.then(|| look(&held.incidents))
    }

    /// Waits until incidents change, or for this long.
    pub(super) fn wait(&self, at_most: Duration) {
        drop(self.changed.wait_timeout(self.held(), at_most));
    }

    pub(super) fn wake(&self) {
        self.changed.notify_all();
    }
}

impl Shown for NotifyWatched {
    fn is_ready(&self) -> bool {
        self.get().caught_up
    }

    fn status(&self) -> serde_json::Value {
        serde_json::to_value(self.get()).unwrap_or_default()
    }

    fn set_gauges(&self) {
        let status = self.get();
        counter!("portcullis_notify_records_total").absolute(status.records);
        counter!("portcullis_notify_records_refused_total").absolute(status.records_refused);
        for (name, of) in status.destinations {
            let labels = [("destination", name), ("kind", of.kind.to_owned())];
            counter!("portcullis_notify_sent_total", &labels).absolute(of.sent);
            counter!("portcullis_notify_told_together_total", &labels).absolute(of.told_together);
            counter!("portcullis_notify_failed_total", &labels).absolute(of.failures);
            counter!("portcullis_notify_given_up_total", &labels).absolute(of.given_up);
            counter!("portcullis_notify_template_failed_total", &labels).absolute(of.template_failures);
            counter!("portcullis_notify_state_failed_total", &labels).absolute(of.state_failures);
            gauge!("portcullis_notify_untold_incidents", &labels).set(of.untold as f64);
        }
    }
}

/// A message as `--dry-run` prints it.
pub(super) fn shown(rendered: &Rendered) -> String {
    match rendered {
        Rendered::Slack(text) | Rendered::Webhook(text) => text.clone(),
        Rendered::Mail(mail) => format!("Subject: {}\n\n{}", mail.subject, mail.text),
    }
}
