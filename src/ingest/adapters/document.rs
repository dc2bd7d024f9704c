//! Bodies of producers as JSON documents, and places in them.

use serde_json::Value;

use crate::event::{Reason, Reject};
use crate::ingest::gateway::body::ITEMS_MAX;

/// Most steps of a pointer, so that a place is found in bounded time.
const STEPS_MAX: usize = 16;

/// The documents of a body: one, an array of them, or one a line.
///
/// # Errors
/// The body as a whole cannot be read, or holds nothing, or too much.
pub(super) fn documents(body: &[u8]) -> Result<Vec<Result<Value, Reject>>, Reject> {
    let body = body.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(body).trim_ascii();
    if body.is_empty() {
        return Err(Reject::new(Reason::EmptyValue, "the body is empty"));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Array(items)) if items.len() > ITEMS_MAX => Err(too_many()),
        Ok(Value::Array(items)) => Ok(items.into_iter().map(Ok).collect()),
        Ok(one) => Ok(vec![Ok(one)]),
        Err(error) => {
            // Several lines that each are whole, or one text that is broken?
            let first = body.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
            if first.len() < body.len() && first.last() == Some(&b'}') {
                return lines(body, |line| serde_json::from_slice(line).map_err(|error| broken(&error)));
            }
            Err(broken(&error))
        }
    }
}

/// Something of each line that is not blank.
pub(super) fn lines<T>(
    body: &[u8],
    read: impl Fn(&[u8]) -> Result<T, Reject>,
) -> Result<Vec<Result<T, Reject>>, Reject> {
    let lines = body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let mut all = Vec::new();
    for line in lines {
        if all.len() == ITEMS_MAX {
            return Err(too_many());
        }
        all.push(read(line));
    }
    Ok(all)
}

pub(super) fn broken(error: &serde_json::Error) -> Reject {
    Reject::new(Reason::BrokenJson, error.to_string())
}

pub(super) fn too_many() -> Reject {
    Reject::new(Reason::TooLarge, format!("the body holds more than {ITEMS_MAX} events; send them in several requests"))
}

/// A place in a document, as RFC 6901 writes it: `/client/ipAddress`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct Pointer {
    text: String,
    steps: Vec<String>,
}

impl TryFrom<String> for Pointer {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix('/') else {
            let shown: String = text.chars().take(64).collect();
            return Err(format!("`{shown}` is no JSON pointer; write /client/ipAddress"));
        };
        let steps: Vec<String> = rest.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect();
        if steps.len() > STEPS_MAX {
            return Err(format!("a pointer has at most {STEPS_MAX} steps"));
        }
        Ok(Pointer { text, steps })
    }
}

impl Pointer {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What is there; a null is nothing. Where an object has no `client` but a `client.ipAddress`, as flattened documents
    /// do, that is meant.
    pub(super) fn of<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        place(document, &self.steps).filter(|value| !value.is_null())
    }

    /// A text, a number or a truth value as text, the first one of a list; `None` where nothing is.
    ///
    /// # Errors
    /// There is an object, or a list of nothing.
    pub(super) fn scalar(&self, document: &Value) -> Result<Option<String>, Reject> {
        let Some(value) = self.of(document) else { return Ok(None) };
        let one = value.as_array().map_or(Some(value), |items| items.first());
        one.and_then(text_of).map(Some).ok_or_else(|| {
            Reject::new(Reason::WrongType, format!("field `{}`: neither a text nor a number", self.text))
        })
    }

    /// Every text there, for comparing.
    pub(super) fn scalars(&self, document: &Value) -> Vec<String> {
        match self.of(document) {
            None => Vec::new(),
            Some(Value::Array(items)) => items.iter().filter_map(text_of).collect(),
            Some(one) => text_of(one).into_iter().collect(),
        }
    }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn place<'a>(value: &'a Value, steps: &[String]) -> Option<&'a Value> {
    let Some((first, rest)) = steps.split_first() else { return Some(value) };
    match value {
        Value::Array(items) => place(items.get(first.parse::<usize>().ok()?)?, rest),
        Value::Object(fields) => match fields.get(first) {
            Some(inner) => place(inner, rest),
            None if rest.is_empty() => None,
            None => {
                // The longest name first, as deep as the rest goes.
                (2..=steps.len()).rev().find_map(|n| {
                    let (joined, rest) = steps.split_at_checked(n)?;
                    place(fields.get(&joined.join("."))?, rest)
                })
            }
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// Whether a text is like a pattern, in which `*` stands for anything.
pub(super) fn is_like(text: &str, pattern: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        let Some((_, after)) = rest.split_once(piece) else { return false };
        rest = after;
    }
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pointer(text: &str) -> Pointer {
        Pointer::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn places_are_found_in_nested_and_in_flat_documents() {
        let document =
            json!({"a": {"b.c": {"d": 1}, "e": null}, "f.g": "flat", "l": [7, {"x": true}], "~/": "odd", "o": {}});
        let text = |at: &str| pointer(at).scalar(&document).unwrap();
        assert_eq!(text("/a/b/c/d").as_deref(), Some("1"));
        assert_eq!(text("/f/g").as_deref(), Some("flat"));
        assert_eq!(text("/l/1/x").as_deref(), Some("true"));
        assert_eq!(text("/l").as_deref(), Some("7"));
        assert_eq!(text("/~0~1").as_deref(), Some("odd"));
        assert_eq!([text("/a/e"), text("/b"), text("/l/2"), text("/l/x"), text("/f/g/h")], [const { None }; 5]);
        let error = pointer("/o").scalar(&document).unwrap_err();
        assert_eq!(error.to_string(), "wrong_type: field `/o`: neither a text nor a number");
        assert!(Pointer::try_from("a".to_owned()).is_err() && Pointer::try_from("/a".repeat(17)).is_err());
    }

    #[test]
    fn a_star_stands_for_anything() {
        for (text, pattern, like) in [
            ("LOGIN", "LOGIN", true),
            ("LOGIN_ERROR", "LOGIN", false),
            ("access.LOGIN", "*LOGIN", true),
            ("LOGIN_ERROR", "LOGIN*", true),
            ("a-b-c", "a*b*c", true),
            ("a-b", "a*b*b", false),
            ("ab", "a*b*", true),
            ("", "*", true),
            ("", "", true),
            ("x", "", false),
            ("aba", "ab*ba", false),
        ] {
            assert_eq!(is_like(text, pattern), like, "{text} {pattern}");
        }
    }

    #[test]
    fn documents_are_one_or_a_list_or_lines() {
        let count = |body: &str| {
            let documents = documents(body.as_bytes()).map_err(|e| e.to_string())?;
            Ok::<_, String>((documents.len(), documents.iter().filter(|one| one.is_err()).count()))
        };
        assert_eq!(count("{\"a\":\n1}"), Ok((1, 0)));
        assert_eq!(count("\u{feff}[{}, 1]"), Ok((2, 0)));
        assert_eq!(count("{}\r\n\n{\"a\":}\n{}"), Ok((3, 1)));
        assert!(count("{\"a\":\n1,,}\n}").unwrap_err().starts_with("broken_json"));
        assert!(count(" ").unwrap_err().starts_with("empty_value"));
        assert!(count(&"{}\n".repeat(ITEMS_MAX + 1)).unwrap_err().starts_with("too_large"));
        assert!(count(&format!("[{}1]", "1,".repeat(ITEMS_MAX))).unwrap_err().starts_with("too_large"));
        assert!(count(&"[".repeat(100_000)).is_err());
    }
}
