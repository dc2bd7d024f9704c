//! What people are told of incidents: by Slack, by webhook, by mail.
//!
//! ```text
//! incidents ──▶ Incidents ──┬─▶ Destination: Ledger ──▶ Message ──▶ Templates ──▶ Channel ──▶ Slack
//!                           ├─▶ Destination …                                          └──▶ a webhook
//!                           └─▶ Destination …                                              a mail
//! ```
//!
//! What to tell ([`news`]) and when ([`Ledger`]) are pure. A destination goes its own way in a thread of its own, so
//! that one which hangs holds up no other. What it was told lies in a file of its own: a restart tells nothing twice,
//! but for a message whose end nobody saw, and that one has the id that it had.

mod destination;
mod http;
mod incidents;
mod ledger;
mod mail;
mod message;
pub mod news;
mod sample;
mod sign;
mod store;
mod template;

#[cfg(test)]
mod tests;

pub use destination::{Channel, Destination, Failure, Plan, Rendered, Status};
pub use http::{Http, HttpOptions};
pub use incidents::{Held, INCIDENTS_MAX, Incidents, RECORD_BYTES_MAX};
pub use ledger::{
    ASKED_MS_MAX, BURST, HELD_MS, Ledger, Left, NEWS_AGE_MAX_MS, Next, REFILL_MS, REFUSALS_MAX, RETRY_MS_MAX,
    RETRY_MS_MIN, TOLD_MAX, TRIED_MS_MAX, Wish,
};
pub use mail::{MailOptions, Mailer, Security};
pub use message::{Before, FALLEN_MAX, ITEMS_MAX, Item, Message};
pub use sample::sample;
pub use sign::{KEY_BYTES_MIN, KEYS_MAX, Keys};
pub use store::{LedgerFile, Store, StoreError};
pub use template::{MailText, SHIPPED, SLACK_BYTES_MAX, SUBJECT_CHARS_MAX, TemplateError, Templates, slack};
