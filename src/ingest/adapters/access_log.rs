//! Lines of an access log, as documents by the names of nginx's variables: the combined format of nginx and Apache, or
//! JSON. What the names lack that can be told is added: `request_method` and `path` from `request` or `request_uri`.

use serde_json::{Map, Value};

use super::document::{broken, lines};
use crate::event::{Reason, Reject};

/// The documents of a body.
pub(super) fn documents(body: &[u8]) -> Result<Vec<Result<Value, Reject>>, Reject> {
    let all = lines(body, |line| {
        let mut fields = if line.first() == Some(&b'{') {
            match serde_json::from_slice(line).map_err(|error| broken(&error))? {
                Value::Object(fields) => fields,
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
            }
        } else {
            combined(&String::from_utf8_lossy(line)).ok_or_else(|| {
                Reject::new(
                    Reason::Malformed,
                    "the line is neither JSON nor of the combined format: ADDRESS - USER [TIME] \"REQUEST\" STATUS BYTES …",
                )
            })?
        };
        complete(&mut fields);
        Ok(Value::Object(fields))
    })?;
    if all.is_empty() {
        return Err(Reject::new(Reason::EmptyValue, "the body is empty"));
    }
    Ok(all)
}

fn complete(fields: &mut Map<String, Value>) {
    let text = |fields: &Map<String, Value>, name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
    if let Some(request) = text(fields, "request") {
        let mut words = request.split(' ');
        if let (Some(method), Some(uri)) = (words.next(), words.next()) {
            fields.entry("request_method").or_insert_with(|| method.into());
            fields.entry("request_uri").or_insert_with(|| uri.into());
        }
    }
    if let Some(uri) = text(fields, "request_uri").or_else(|| text(fields, "uri")) {
        let path = uri.split(['?', '#']).next().unwrap_or_default();
        fields.insert("path".to_owned(), path.into());
    }
}

/// `ADDRESS IDENT USER [TIME] "REQUEST" STATUS BYTES "REFERER" "AGENT"`, and whatever follows.
fn combined(line: &str) -> Option<Map<String, Value>> {
    let (address, rest) = line.split_once(' ')?;
    let (before, rest) = rest.split_once(" [")?;
    // A user's name may hold spaces; the identity before it does not.
    let (_, user) = before.split_once(' ')?;
    let (time, rest) = rest.split_once("] \"")?;
    let (request, rest) = quoted(rest)?;
    let mut numbers = rest.trim_start().splitn(3, ' ');
    let (status, bytes) = (numbers.next()?, numbers.next()?);
    let status = status.parse::<u16>().ok()?;
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| {
        fields.insert(name.to_owned(), value);
    };
    put("remote_addr", address.into());
    put("time_local", time.into());
    put("request", request.into());
    put("status", status.into());
    put("body_bytes_sent", bytes.into());
    if user != "-" {
        put("remote_user", user.into());
    }
    if let Some((_, rest)) = numbers.next().and_then(|rest| quoted(rest.trim_start().strip_prefix('"')?))
        && let Some((agent, _)) = rest.trim_start().strip_prefix('"').and_then(quoted)
        && agent != "-"
    {
        put("http_user_agent", agent.into());
    }
    Some(fields)
}

/// The text up to the quote that ends it, and what follows; nginx writes a quote inside as `\x22`, Apache as `\"`.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut bytes = Vec::new();
    let mut at = 0;
    let raw = text.as_bytes();
    loop {
        match raw.get(at)? {
            b'"' => return Some((String::from_utf8_lossy(&bytes).into_owned(), text.get(at + 1..)?)),
            b'\\' => {
                let escaped = raw.get(at + 1)?;
                let code = text.get(at + 2..at + 4).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
                if let (b'x', Some(byte)) = (escaped, code.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
                    bytes.push(byte);
                    at += 4;
                } else {
                    bytes.push(*escaped);
                    at += 2;
                }
            }
            byte => {
                bytes.push(*byte);
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Value {
        documents(line.as_bytes()).unwrap().remove(0).unwrap()
    }

    #[test]
    fn combined_lines_are_read_with_their_escapes() {
        let line = r#"203.0.113.9 - ada b [28/Jun/2019:02:40:00 +0200] "POST /login?next=/a\x22b HTTP/1.1" 401 12 "-" "curl\"8 \\ [x]" extra"#;
        let value = one(line);
        for (name, want) in [
            ("remote_addr", "203.0.113.9"),
            ("remote_user", "ada b"),
            ("time_local", "28/Jun/2019:02:40:00 +0200"),
            ("request_method", "POST"),
            ("request_uri", "/login?next=/a\"b"),
            ("path", "/login"),
            ("http_user_agent", "curl\"8 \\ [x]"),
        ] {
            assert_eq!(value[name], want, "{name}");
        }
        assert_eq!(value["status"], 401);
        assert_eq!(one(r#"::1 - - [t] "" 400 0 "-" "-""#).get("http_user_agent"), None);
        // The common format has no agent.
        assert_eq!(one(r#"::1 - - [t] "GET / HTTP/1.0" 200 5"#)["path"], "/");
    }

    #[test]
    fn what_is_no_line_is_told() {
        for line in ["x", "a - - [t] \"GET", "a - - [t] \"GET /\" abc 0", "a - - [t] \"\\", "{\"a\":"] {
            assert!(documents(line.as_bytes()).unwrap()[0].is_err(), "{line}");
        }
        assert!(documents(b"\n \n").is_err());
    }
}
