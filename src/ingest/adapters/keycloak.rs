//! Keycloak's own log of its events, as documents of the form that its listeners send.
//!
//! With `--log-console-output=json` (and `--spi-events-listener-jboss-logging-success-level=info`, without which
//! successes are not logged) a line is JSON whose `message` is `type="LOGIN_ERROR", realmId="…", …`. Older versions quote
//! nothing; then a value ends at the next `, ` and a name that the client chose may hold one, so quote.

use serde_json::{Map, Value};

use super::document::{self, Pointer};
use crate::event::Reject;

const LOGGER: &str = "org.keycloak.events";
/// What belongs to the event itself; the rest are its details.
const OWN: [&str; 8] = ["type", "realmId", "realmName", "clientId", "userId", "sessionId", "ipAddress", "error"];

/// The documents of a body; what is an event already stays as it is.
pub(super) fn documents(body: &[u8]) -> Result<Vec<Result<Value, Reject>>, Reject> {
    let documents = document::documents(body)?;
    Ok(documents.into_iter().map(|document| document.map(of_log)).collect())
}

fn of_log(line: Value) -> Value {
    let text = |at: &str| {
        let pointer = Pointer::try_from(at.to_owned()).ok()?;
        pointer.scalar(&line).ok().flatten()
    };
    if text("/loggerName").as_deref() != Some(LOGGER) {
        return line;
    }
    let (mut event, mut details) = (Map::new(), Map::new());
    for (name, value) in pairs(&text("/message").unwrap_or_default()) {
        if value == "null" {
            continue;
        }
        let fields = if OWN.contains(&name.as_str()) { &mut event } else { &mut details };
        // What a client chose stands behind what Keycloak says, and does not replace it.
        fields.entry(name).or_insert_with(|| value.into());
    }
    event.insert("details".to_owned(), Value::Object(details));
    for (from, to) in [("/timestamp", "timestamp"), ("/sequence", "sequence"), ("/hostName", "hostName")] {
        if let Some(value) = text(from) {
            event.insert(to.to_owned(), value.into());
        }
    }
    Value::Object(event)
}

/// `name="value", name="value"`, or without quotes.
fn pairs(message: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = message;
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_start_matches([',', ' ']);
        let (value, after) = match after.strip_prefix('"') {
            Some(text) => quoted(text),
            None => {
                let (value, after) = after.split_once(", ").unwrap_or((after, ""));
                (value.to_owned(), after)
            }
        };
        pairs.push((name.to_owned(), value));
        rest = after;
    }
    pairs
}

/// The text up to the quote that ends it, and what follows; a quote inside has a backslash before it.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, text.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_an_event_is_that_event() {
        for message in [
            r#"type="LOGIN_ERROR", realmName="shop", userId="null", ipAddress="203.0.113.9", error="user_not_found", username="ada\", type=\"LOGIN", type="LOGIN""#,
            "type=LOGIN_ERROR, realmName=shop, userId=null, ipAddress=203.0.113.9, error=user_not_found, username=ada",
        ] {
            let line =
                serde_json::json!({"timestamp": "2019-06-28T00:40:00Z", "loggerName": LOGGER, "message": message});
            let event = documents(line.to_string().as_bytes()).unwrap().remove(0).unwrap();
            assert_eq!(event["type"], "LOGIN_ERROR");
            assert_eq!(event["ipAddress"], "203.0.113.9");
            assert_eq!(event.get("userId"), None);
            assert!(event["details"]["username"].as_str().unwrap().starts_with("ada"));
        }
        let other = documents(br#"{"loggerName":"x","message":"type=LOGIN"}"#).unwrap().remove(0).unwrap();
        assert_eq!(other.get("type"), None);
    }

    #[test]
    fn a_message_of_nonsense_is_read_to_its_end() {
        for message in ["", "=", "==", "a", "a=\"", "a=\"b", ", , =,", "\"=\", \""] {
            assert!(pairs(message).len() < 5, "{message}");
        }
    }
}
