//! Templates: text in files, shipped ones that a folder may override. What others chose is made harmless for its channel
//! by the printing itself, so that no template can forget it.
//!
//! | file | becomes | what is printed into it |
//! | --- | --- | --- |
//! | `slack.txt` | the text of a Slack message | plain, without mentions and markup |
//! | `mail.subject.txt`, `mail.txt` | subject and plain text of a mail | plain, on one line |
//! | `mail.html` | the mail as HTML | plain, and escaped |
//! | `webhook.json` | the body of a webhook | JSON, whole and as it is |

use std::fmt;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, Error, State, UndefinedBehavior, escape_formatter};

use super::message::Message;
use crate::console::text::{Plain, date_time, grouped, how_long};

/// The shipped ones.
pub const SHIPPED: [(&str, &str); 5] = [
    (SLACK, include_str!("templates/slack.txt")),
    (SUBJECT, include_str!("templates/mail.subject.txt")),
    (MAIL, include_str!("templates/mail.txt")),
    (HTML, include_str!("templates/mail.html")),
    (WEBHOOK, include_str!("templates/webhook.json")),
];
const SLACK: &str = "slack.txt";
const SUBJECT: &str = "mail.subject.txt";
const MAIL: &str = "mail.txt";
const HTML: &str = "mail.html";
const WEBHOOK: &str = "webhook.json";

/// Longest template, in bytes.
const TEMPLATE_BYTES_MAX: u64 = 64 << 10;
/// Longest text that one makes, in bytes; a longer one is cut at the end of a line.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// Slack cuts what is longer, and shows it folded long before that.
pub const SLACK_BYTES_MAX: usize = 12_000;
pub const SUBJECT_CHARS_MAX: usize = 160;

/// What is said of a template that is wrong.
#[derive(Debug, thiserror::Error)]
#[error("template {template}{}: {what}", line.map(|line| format!(", line {line}")).unwrap_or_default())]
pub struct TemplateError {
    template: String,
    line: Option<usize>,
    what: String,
}

/// A mail, but for its addresses.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct MailText {
    pub subject: String,
    pub text: String,
    pub html: String,
}

/// All templates, compiled.
pub struct Templates {
    env: Environment<'static>,
}

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Templates").finish_non_exhaustive()
    }
}

impl Templates {
    /// The shipped ones, and instead of them those of the folder.
    ///
    /// # Errors
    /// The folder or a file of it cannot be read, is too long or no template, or makes no text of `sample`.
    pub fn load(folder: Option<&Path>, sample: &Message) -> Result<Templates, TemplateError> {
        let mut env = Environment::new();
        env.set_auto_escape_callback(escaping);
        env.set_formatter(print);
        // A misspelt name is told and not printed as nothing.
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        // A line that holds nothing but a block leaves no line behind.
        env.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .map_err(|error| told(SLACK, &error))?,
        );
        // Templates reckon with more digits than a record has.
        env.add_filter("time", |at: i128| date_time(whole(at)));
        env.add_filter("how_long", |ms: i128| how_long(whole(ms)));
        env.add_filter("number", |n: i128| grouped(whole(n)));
        env.add_filter("name", name);
        env.add_filter("link", |url: &str| Value::from_safe_string(link(url)));
        env.add_filter("code", |text: &str| Value::from_safe_string(format!("`{}`", slack(&name(text)))));
        if let Some(folder) = folder {
            check_folder(folder)?;
        }
        for (name, shipped) in SHIPPED {
            let text = folder.map(|folder| read(folder, name)).transpose()?.flatten();
            let text = text.unwrap_or_else(|| shipped.to_owned());
            env.add_template_owned(name, text).map_err(|error| told(name, &error))?;
        }
        let templates = Templates { env };
        templates.slack(sample)?;
        templates.mail(sample)?;
        templates.webhook(sample)?;
        Ok(templates)
    }

    /// # Errors
    /// The template fails.
    pub fn slack(&self, message: &Message) -> Result<String, TemplateError> {
        Ok(cut_at_line(self.render(SLACK, message)?, SLACK_BYTES_MAX))
    }

    /// # Errors
    /// A template fails.
    pub fn mail(&self, message: &Message) -> Result<MailText, TemplateError> {
        let subject = self.render(SUBJECT, message)?;
        // A line end of the template's own would begin another header.
        let subject = subject.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(MailText {
            subject: subject.chars().take(SUBJECT_CHARS_MAX).collect(),
            text: cut_at_line(self.render(MAIL, message)?, TEXT_BYTES_MAX),
            // Cut, it would be no HTML any more; what is printed into it is bounded.
            html: self.render(HTML, message)?,
        })
    }

    /// The body of a webhook, which is JSON.
    ///
    /// # Errors
    /// The template fails, or makes something else.
    pub fn webhook(&self, message: &Message) -> Result<String, TemplateError> {
        let text = self.render(WEBHOOK, message)?;
        serde_json::from_str::<serde::de::IgnoredAny>(&text).map_err(|error| TemplateError {
            template: WEBHOOK.to_owned(),
            line: None,
            what: format!("what it makes is no JSON: {error}"),
        })?;
        Ok(text.trim().to_owned())
    }

    fn render(&self, name: &str, message: &Message) -> Result<String, TemplateError> {
        let context = Value::from(Serde(Context { message, incidents: &message.incidents }));
        self.env.get_template(name).and_then(|template| template.render(context)).map_err(|error| told(name, &error))
    }
}

/// What templates see.
#[derive(serde::Serialize)]
struct Context<'a> {
    message: &'a Message,
    incidents: &'a [super::message::Item],
}

fn whole(n: i128) -> i64 {
    i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
}

fn name(text: &str) -> String {
    if text.is_empty() { "(no name)".to_owned() } else { Plain::name(text).to_string() }
}

/// An address between `<` and `|` of a Slack message.
fn link(url: &str) -> String {
    let kept = url.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '<' | '>' | '|'));
    kept.collect::<String>().replace('&', "&amp;")
}

fn told(name: &str, error: &Error) -> TemplateError {
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    TemplateError { template: name.to_owned(), line: error.line(), what }
}

/// A file that nobody reads was misnamed.
fn check_folder(folder: &Path) -> Result<(), TemplateError> {
    let fault = |what: String| TemplateError { template: folder.display().to_string(), line: None, what };
    for entry in std::fs::read_dir(folder).map_err(|error| fault(error.to_string()))? {
        let name = entry.map_err(|error| fault(error.to_string()))?.file_name().to_string_lossy().into_owned();
        let is_hidden = name.starts_with('.') || name.ends_with('~');
        if !is_hidden && SHIPPED.iter().all(|(shipped, _)| *shipped != name) {
            let names = SHIPPED.map(|(name, _)| name).join(", ");
            return Err(fault(format!("`{}` is no template's name; there are {names}", Plain::name(&name))));
        }
    }
    Ok(())
}

fn read(folder: &Path, name: &str) -> Result<Option<String>, TemplateError> {
    let path = folder.join(name);
    let fault = |what: String| TemplateError { template: path.display().to_string(), line: None, what };
    match std::fs::metadata(&path) {
        Ok(found) if found.len() > TEMPLATE_BYTES_MAX => {
            Err(fault(format!("{} bytes are more than {TEMPLATE_BYTES_MAX}", found.len())))
        }
        Ok(_) => std::fs::read_to_string(&path).map(Some).map_err(|error| fault(error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fault(error.to_string())),
    }
}

fn escaping(name: &str) -> AutoEscape {
    match name.rsplit_once('.') {
        _ if name == SLACK => AutoEscape::Custom("slack".into()),
        Some((_, "html")) => AutoEscape::Html,
        Some((_, "json")) => AutoEscape::Json,
        Some(_) | None => AutoEscape::Custom("text".into()),
    }
}

/// Prints a value into a template.
fn print(out: &mut minijinja::Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let escape = state.auto_escape();
    let write = |out: &mut minijinja::Output<'_>, text: &str| out.write_str(text).map_err(Error::from);
    if matches!(escape, AutoEscape::Json) {
        return escape_formatter(out, state, value);
    }
    if value.is_safe() {
        return write(out, value.as_str().unwrap_or_default());
    }
    let plain = match value.as_str() {
        Some(text) => Plain::sentence(text).to_string(),
        None => value.to_string(),
    };
    if matches!(escape, AutoEscape::Html) {
        return escape_formatter(out, state, &Value::from(plain));
    }
    let is_slack = matches!(&escape, AutoEscape::Custom(name) if name == "slack");
    if is_slack { write(out, &slack(&plain)) } else { write(out, &plain) }
}

/// Text in which Slack, and what takes its messages, finds neither markup nor anybody to call.
#[must_use]
pub fn slack(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for (index, c) in text.char_indices() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '@' if calls(text, index) => out.push('\u{ff20}'),
            // Bold, slanted, struck, a link's text: of a name they are letters that look alike.
            '*' => out.push('\u{2217}'),
            '_' if !within_word(text, index) => out.push('\u{ff3f}'),
            '~' => out.push('\u{223c}'),
            '`' => out.push('\u{2cb}'),
            '[' => out.push('\u{ff3b}'),
            ']' => out.push('\u{ff3d}'),
            _ => out.push(c),
        }
    }
    out
}

/// Whether an `@` may call somebody: it stands at the beginning of a word, or before a word that calls everybody.
fn calls(text: &str, at: usize) -> bool {
    let before = text.get(..at).and_then(|before| before.chars().next_back());
    let after: String = text
        .get(at + 1..)
        .unwrap_or_default()
        .chars()
        .take_while(|c| c.is_alphanumeric())
        .take(16)
        .flat_map(char::to_lowercase)
        .collect();
    !before.is_some_and(char::is_alphanumeric)
        || matches!(after.as_str(), "channel" | "here" | "all" | "everyone" | "group")
}

fn within_word(text: &str, at: usize) -> bool {
    let before = text.get(..at).and_then(|before| before.chars().next_back());
    let after = text.get(at + 1..).and_then(|after| after.chars().next());
    before.is_some_and(char::is_alphanumeric) && after.is_some_and(char::is_alphanumeric)
}

fn cut_at_line(mut text: String, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text;
    }
    let mut end = bytes_max.saturating_sub(8);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let kept = text.get(..end).unwrap_or_default();
    let end = kept.rfind(['\n', ' ']).unwrap_or(end);
    text.truncate(end);
    text.push_str("\n…");
    text
}
