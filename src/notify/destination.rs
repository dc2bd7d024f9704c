//! One destination: what it is to be told, by which channel, and how that went.

use std::sync::Arc;

use serde::Serialize;

use super::http::Http;
use super::incidents::Incidents;
use super::ledger::{Ledger, Left, Next, Wish};
use super::mail::Mailer;
use super::message::Message;
use super::sign::Keys;
use super::store::LedgerFile;
use super::template::{MailText, TemplateError, Templates};
use crate::event::Millis;

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub why: String,
    /// How long the receiver wants to be let alone, in milliseconds.
    pub asked: Option<Millis>,
    /// The same message will not be taken later either.
    pub is_refusal: bool,
}

impl Failure {
    pub(super) fn later(why: String) -> Failure {
        Failure { why, asked: None, is_refusal: false }
    }
}

/// By which way.
#[derive(Debug)]
pub enum Channel {
    Slack(Http),
    Webhook(Http, Keys),
    Mail(Mailer),
}

/// A message as it goes out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rendered {
    Slack(String),
    Webhook(String),
    Mail(MailText),
}

impl Channel {
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Channel::Slack(_) => "slack",
            Channel::Webhook(..) => "webhook",
            Channel::Mail(_) => "mail",
        }
    }

    /// # Errors
    /// The template fails.
    pub fn render(&self, templates: &Templates, message: &Message) -> Result<Rendered, TemplateError> {
        Ok(match self {
            Channel::Slack(_) => Rendered::Slack(templates.slack(message)?),
            Channel::Webhook(..) => Rendered::Webhook(templates.webhook(message)?),
            Channel::Mail(_) => Rendered::Mail(templates.mail(message)?),
        })
    }

    /// Delivers; waits for the answer. `now` is the time that a signature names.
    ///
    /// # Errors
    /// It was not taken; whether another try may help.
    pub fn send(&self, message: &Message, rendered: Rendered, now: Millis) -> Result<(), Failure> {
        match (self, rendered) {
            (Channel::Slack(http), Rendered::Slack(text)) => {
                // No look at where addresses in it lead, and no names taken for people.
                let body = serde_json::json!({
                    "text": text, "mrkdwn": true, "unfurl_links": false, "unfurl_media": false, "link_names": 0,
                });
                http.post(&body.to_string(), &[])
            }
            (Channel::Webhook(http, keys), Rendered::Webhook(body)) => {
                let seconds = now.div_euclid(1_000);
                let signature = keys.sign(&message.id, seconds, &body);
                let headers = [
                    ("webhook-id", message.id.as_str()),
                    ("webhook-timestamp", &seconds.to_string()),
                    ("webhook-signature", &signature),
                ];
                http.post(&body, &headers)
            }
            (Channel::Mail(mailer), Rendered::Mail(text)) => mailer.send(message, text),
            (channel, _) => Err(Failure::later(format!("this was not made for {}", channel.kind()))),
        }
    }
}

/// How a destination stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    pub kind: &'static str,
    /// Messages that were taken, since start.
    pub sent: u64,
    /// Incidents that were told of together with others in one of them.
    pub told_together: u64,
    /// Tries that failed.
    pub failures: u64,
    /// Messages that were given up; what they told is told in others.
    pub given_up: u64,
    /// Messages whose own template failed, so that the shipped one was taken.
    pub template_failures: u64,
    /// Times that what was told could not be written down.
    pub state_failures: u64,
    /// Incidents with something untold now, digests apart.
    pub untold: usize,
    pub last_sent_at: Option<Millis>,
    /// When it was last looked for something to do and nothing was found.
    pub settled_at: Option<Millis>,
    /// How many records had been taken then.
    pub settled_records: u64,
    /// When a message that failed is tried again.
    pub retry_at: Option<Millis>,
    /// Why the last try failed; `None` once one went well.
    pub last_error: Option<String>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// [`Destination::deliver`], now.
    Deliver,
    /// Nothing before that, unless an incident changes.
    Wait(Option<Millis>),
}

/// One destination, as a value: incidents and the time go in.
#[derive(Debug)]
pub struct Destination {
    wish: Wish,
    channel: Channel,
    templates: Arc<Templates>,
    /// Those that are known to make a text of everything.
    shipped: Arc<Templates>,
    ledger: Ledger,
    /// `None`: nothing is written down.
    file: Option<LedgerFile>,
    next: Option<Message>,
    status: Status,
}

impl Destination {
    #[must_use]
    pub fn new(
        wish: Wish,
        channel: Channel,
        [templates, shipped]: [&Arc<Templates>; 2],
        ledger: Ledger,
        file: Option<LedgerFile>,
    ) -> Destination {
        let status = Status { kind: channel.kind(), ..Status::default() };
        let [templates, shipped] = [templates, shipped].map(Arc::clone);
        Destination { wish, channel, templates, shipped, ledger, file, next: None, status }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.wish.destination
    }

    #[must_use]
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// What is to be done at `now`. The incidents may change while a message is delivered.
    pub fn plan(&mut self, incidents: &Incidents, now: Millis) -> Plan {
        let is_new = !self.ledger.is_sending();
        let next = self.ledger.next(incidents, &self.wish, now);
        self.status.untold = self.ledger.untold(incidents, &self.wish, now);
        match next {
            Next::Send(message) => {
                self.next = Some(*message);
                if is_new {
                    // Before the first try, so that a process that ends in the middle of it tries the same one again.
                    self.save();
                }
                Plan::Deliver
            }
            Next::Wait(until) => {
                self.status.settled_at = Some(now);
                self.status.settled_records = incidents.taken();
                Plan::Wait(until)
            }
        }
    }

    /// What would be delivered now, taken for delivered.
    pub fn pretend(&mut self, now: Millis) -> Option<(Message, Rendered)> {
        let message = self.next.take()?;
        let rendered = self.render(&message);
        self.ledger.sent(now);
        Some((message, rendered.ok()?))
    }

    /// Delivers what [`plan`](Self::plan) found; may take as long as the destination's timeout.
    pub fn deliver(&mut self, clock: &dyn Fn() -> Millis) {
        let Some(message) = self.next.take() else { return };
        let delivered = match self.render(&message) {
            Ok(rendered) => self.channel.send(&message, rendered, clock()),
            Err(error) => Err(Failure { is_refusal: true, ..Failure::later(error.to_string()) }),
        };
        let (name, now) = (self.wish.destination.as_str(), clock());
        self.status.retry_at = None;
        match delivered {
            Ok(()) => {
                self.ledger.sent(now);
                self.status.sent += 1;
                if message.incidents.len() > 1 {
                    self.status.told_together += message.incidents.len() as u64;
                }
                self.status.last_sent_at = Some(now);
                self.status.last_error = None;
                tracing::info!(
                    destination = name,
                    id = message.id,
                    incidents = message.incidents.len(),
                    "message sent"
                );
            }
            Err(failure) => {
                self.status.failures += 1;
                let left = self.ledger.failed(failure.asked, failure.is_refusal, now);
                match left {
                    Left::Retry(at) => self.status.retry_at = Some(at),
                    Left::GivenUp => self.status.given_up += 1,
                }
                let (given_up, why) = (left == Left::GivenUp, &failure.why);
                tracing::warn!(destination = name, id = message.id, given_up, %why, "message not delivered");
                self.status.last_error = Some(failure.why);
            }
        }
        self.save();
    }

    /// A template of somebody's own that fails on some incident must not hide that incident.
    fn render(&mut self, message: &Message) -> Result<Rendered, TemplateError> {
        self.channel.render(&self.templates, message).or_else(|error| {
            self.status.template_failures += 1;
            tracing::error!(%error, "the shipped template is taken instead");
            self.channel.render(&self.shipped, message)
        })
    }

    fn save(&mut self) {
        let Some(file) = &self.file else { return };
        if let Err(error) = file.save(&self.ledger) {
            self.status.state_failures += 1;
            tracing::error!(%error, "what was told cannot be written down, so a restart may tell it once more");
        }
    }
}
