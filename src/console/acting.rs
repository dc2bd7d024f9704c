//! HTTP of whoever acts: signing in and out, forms, what they ask for, and the second person's answer.
//!
//! Everything here that changes something is a `POST` that a page of this console must have sent: its origin is looked at,
//! and it carries what only a page of this session knows. It is answered by a page to go to, so that nothing is asked for
//! twice by loading again; and each form has the id of its command, so that sending it twice is one command.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::Form as Fields;
use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use super::hands::{Operating, Undone};
use super::http::{Shared, carried_out, shown, told, written};
use super::look::{Look, Viewer, set_cookie};
use super::operators::{Person, Role};
use super::pages;
use super::shared::Console;
use super::trail::Outcome;
use super::wishes::{Form, Wish, wish};
use crate::event::wire::TEXT_BYTES_MAX;
use crate::event::{Command, CommandKind, Millis};
use crate::topology::{Asked, Giver};

/// How long a second person has.
pub(super) const PENDING_MS: Millis = 3_600_000;
/// Longest form, in bytes.
pub(super) const FORM_BYTES_MAX: usize = 64 << 10;
/// Longest address within the console that one is sent to after signing in.
const NEXT_BYTES_MAX: usize = 2_048;

type QueryFields = Result<Query<BTreeMap<String, String>>, QueryRejection>;
type FormFields = Result<Fields<BTreeMap<String, String>>, FormRejection>;

/// The address of whoever asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// What a request was refused for.
struct Refused(Box<Response>);

fn refused(look: &Look<'_>, status: StatusCode, title: &str, what: &str) -> Refused {
    Refused(Box::new(told(look, status, title, what)))
}

/// Whether a page of this console sent it, as far as a browser says: every browser says it of a form.
pub(super) fn is_from_here(headers: &HeaderMap, origin: Option<&str>) -> bool {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default());
    let site = text(header::HeaderName::from_static("sec-fetch-site"));
    if site.is_some_and(|site| site != "same-origin") {
        return false;
    }
    match text(header::ORIGIN) {
        None => site.is_some(),
        Some(from) if origin.is_some_and(|origin| origin.eq_ignore_ascii_case(from)) => true,
        Some(from) => {
            let host = from.strip_prefix("http://").or_else(|| from.strip_prefix("https://"));
            text(header::HOST).zip(host).is_some_and(|(ours, theirs)| ours.eq_ignore_ascii_case(theirs))
        }
    }
}

/// An address within this console, and nothing else.
fn within(next: &str) -> &str {
    let is_ours = next.starts_with('/')
        && !next.starts_with("//")
        && next.len() <= NEXT_BYTES_MAX
        && next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_ours { next } else { "/" }
}

fn go_to(path: &str) -> Response {
    let place = HeaderValue::from_str(path).unwrap_or_else(|_| HeaderValue::from_static("/"));
    (StatusCode::SEE_OTHER, [(header::LOCATION, place)]).into_response()
}

/// To the form to sign in, and back from there.
pub(super) fn to_sign_in(path_and_query: &str) -> Response {
    go_to(&format!("/sign-in?next={}", pages::query_value(within(path_and_query))))
}

pub(super) async fn sign_in_form(
    State(console): Shared,
    Extension(viewer): Extension<Viewer>,
    query: QueryFields,
) -> Response {
    let next = query.ok().and_then(|Query(mut query)| query.remove("next")).unwrap_or_default();
    written(console, viewer, move |look| match look.operating() {
        Some(_) => shown(pages::sign_in(look, within(&next), None)),
        None => told(look, StatusCode::NOT_FOUND, "Nobody signs in here", pages::READ_ONLY),
    })
    .await
}

pub(super) async fn sign_in(
    State(console): Shared,
    Extension(viewer): Extension<Viewer>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    fields: FormFields,
) -> Response {
    written(console, viewer, move |look| {
        let Some(operating) = look.operating() else {
            return told(look, StatusCode::FORBIDDEN, "Read-only", pages::READ_ONLY);
        };
        if !is_from_here(&headers, operating.operators.origin()) {
            return from_elsewhere(look);
        }
        let Ok(Fields(mut fields)) = fields else { return not_a_form(look) };
        let next = fields.remove("next").unwrap_or_default();
        let again = |status: StatusCode, what: &str| {
            (status, shown(pages::sign_in(look, within(&next), Some(what)))).into_response()
        };
        if !operating.sessions.may_sign_in(peer, look.elapsed()) {
            return again(
                StatusCode::TOO_MANY_REQUESTS,
                "Too many failed attempts from your address. Try again in a minute.",
            );
        }
        let token = fields.remove("token").unwrap_or_default();
        let Some(person) = operating.operators.by_token(token.trim()) else {
            operating.sessions.failed(peer, look.elapsed());
            tracing::warn!(%peer, "somebody failed to sign in to the console");
            return again(StatusCode::FORBIDDEN, "This is nobody's token.");
        };
        match operating.sessions.issue(person, look.now()) {
            Ok(value) => {
                tracing::info!(%peer, name = person.name, role = person.role.as_str(), "signed in to the console");
                with_cookie(go_to(within(&next)), operating, &value)
            }
            Err(error) => again(StatusCode::INTERNAL_SERVER_ERROR, &error),
        }
    })
    .await
}

pub(super) async fn sign_out(
    State(console): Shared,
    Extension(viewer): Extension<Viewer>,
    headers: HeaderMap,
    fields: FormFields,
) -> Response {
    written(console, viewer, move |look| {
        let form = fields.ok().and_then(|Fields(fields)| Form::new(fields).ok()).unwrap_or_default();
        match sent_by(look, &headers, &form) {
            Ok((operating, _)) => {
                if let Some(session) = &look.viewer.session {
                    operating.sessions.end(session, look.now());
                }
                with_cookie(go_to("/"), operating, "")
            }
            Err(Refused(answer)) => *answer,
        }
    })
    .await
}

fn with_cookie(mut answer: Response, operating: &Operating, value: &str) -> Response {
    if let Ok(cookie) = HeaderValue::from_str(&set_cookie(operating, value)) {
        answer.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    answer
}

fn from_elsewhere(look: &Look<'_>) -> Response {
    let what = "This was not sent by a page of this console, so nothing was done. Where a proxy stands before it, say in \
                the file of operators under which origin people reach it.";
    told(look, StatusCode::FORBIDDEN, "Nothing was done", what)
}

fn not_a_form(look: &Look<'_>) -> Response {
    told(look, StatusCode::BAD_REQUEST, "Nothing was done", "What was sent is no form of this console, or too long.")
}

/// Who sent a form: somebody known, from a page of theirs.
fn sent_by<'a>(look: &Look<'a>, headers: &HeaderMap, form: &Form) -> Result<(&'a Operating, &'a Person), Refused> {
    let Some(operating) = look.console().operating() else {
        return Err(refused(look, StatusCode::FORBIDDEN, "Read-only", pages::READ_ONLY));
    };
    if !is_from_here(headers, operating.operators.origin()) {
        return Err(Refused(Box::new(from_elsewhere(look))));
    }
    let Some(person) = &look.viewer.person else {
        return Err(refused(
            look,
            StatusCode::FORBIDDEN,
            "Nothing was done",
            "You are not signed in, or not any more.",
        ));
    };
    if !look.is_form_token(form.get("form")) {
        let what = "This form is of another session. Load its page again.";
        return Err(refused(look, StatusCode::FORBIDDEN, "Nothing was done", what));
    }
    Ok((operating, person))
}

/// The same, of somebody who may act, and not too often.
fn operator<'a>(look: &Look<'a>, headers: &HeaderMap, form: &Form) -> Result<(&'a Operating, &'a Person), Refused> {
    let (operating, person) = sent_by(look, headers, form)?;
    if person.role != Role::Operator {
        let what = "You may look; only operators act.";
        return Err(refused(look, StatusCode::FORBIDDEN, "Nothing was done", what));
    }
    if !operating.sessions.may_act(&person.name, look.elapsed()) {
        let what = "That were very many actions within a minute. Wait, and try again.";
        return Err(refused(look, StatusCode::TOO_MANY_REQUESTS, "Nothing was done", what));
    }
    Ok((operating, person))
}

/// The form of an action.
pub(super) async fn act_form(
    State(console): Shared,
    Extension(viewer): Extension<Viewer>,
    uri: Uri,
    query: QueryFields,
) -> Response {
    let form = query.map(|Query(query)| query).unwrap_or_default();
    written(console, viewer, move |look| {
        if let Some(answer) = why_not(look, &uri) {
            return answer;
        }
        match Form::new(form).ok().filter(|form| form.deed().is_some()) {
            Some(form) => act_page(look, &form, None, StatusCode::OK),
            None => told(look, StatusCode::BAD_REQUEST, "Do what?", "There is no such action."),
        }
    })
    .await
}

/// Why somebody may not act, with what to do about it.
fn why_not(look: &Look<'_>, uri: &Uri) -> Option<Response> {
    if look.may_act() {
        return None;
    }
    Some(match (look.operating(), &look.viewer.person) {
        (None, _) => told(look, StatusCode::FORBIDDEN, "Read-only", pages::READ_ONLY),
        (Some(_), None) => to_sign_in(uri.path_and_query().map_or("/", |of| of.as_str())),
        (Some(_), Some(_)) => told(look, StatusCode::FORBIDDEN, "You may look", "Only operators act."),
    })
}

fn act_page(look: &Look<'_>, form: &Form, wrong: Option<&str>, status: StatusCode) -> Response {
    match super::sessions::fresh_id() {
        Ok(id) => (status, shown(pages::act(look, form, &id, wrong))).into_response(),
        Err(error) => told(look, StatusCode::INTERNAL_SERVER_ERROR, "This did not work", &error),
    }
}

/// An action.
pub(super) async fn act(
    State(console): Shared,
    Extension(viewer): Extension<Viewer>,
    headers: HeaderMap,
    fields: FormFields,
) -> Response {
    carried_out(console, viewer, move |look| {
        let Some(form) = fields.ok().and_then(|Fields(fields)| Form::new(fields).ok()) else { return not_a_form(look) };
        let (operating, person) = match operator(look, &headers, &form) {
            Ok(sender) => sender,
            Err(Refused(answer)) => return *answer,
        };
        let id = form.get("id");
        if !is_id(id) {
            return not_a_form(look);
        }
        // Sent twice, it is one.
        if look.board().trail().get(id).is_some() {
            return go_to(&page_of(id));
        }
        match asked_for(look, operating, person, &form) {
            Ok(()) => go_to(&page_of(id)),
            Err(Undone::Wrong(why)) => act_page(look, &form, Some(&why), StatusCode::UNPROCESSABLE_ENTITY),
            Err(Undone::Away(why)) => act_page(look, &form, Some(&why), StatusCode::SERVICE_UNAVAILABLE),
        }
    })
    .await
}

fn is_id(id: &str) -> bool {
    id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn page_of(id: &str) -> String {
    format!("/actions/{}", pages::query_value(id))
}

fn giver(person: &Person, id: &str, reason: &str, at: Millis) -> Giver {
    Giver {
        command_id: id.to_owned(),
        at,
        actor: person.name.clone(),
        role: person.role.as_str().to_owned(),
        reason: reason.to_owned(),
    }
}

/// Does what a form asks for, or asks a second person.
fn asked_for(look: &Look<'_>, operating: &Operating, person: &Person, form: &Form) -> Result<(), Undone> {
    let now = look.now();
    let by = giver(person, form.get("id"), form.get("reason"), now);
    let wish = wish(form, by, &look.board()).map_err(Undone::Wrong)?;
    let command = match wish {
        Wish::Override(command, edit) => return operating.hands.lay_override(command, edit),
        Wish::EndOverride(command) => return operating.hands.end_override(command),
        Wish::Command(command) => command,
    };
    // In canonical form before it is weighed; whether somebody agreed is looked at after that.
    let whom = Asked::new(Command { pending_until: Some(now), ..command.clone() }).map_err(Undone::Wrong)?.command;
    let pending_until = look.board().needs_second(&whom, now).map(|_| {
        let until = now.saturating_add(PENDING_MS);
        command.until.map_or(until, |end| end.min(until))
    });
    let asked = Asked::new(Command { pending_until, ..command }).map_err(Undone::Wrong)?;
    operating.hands.ask(&asked)?;
    let Command { command_id, kind, actor, .. } = &asked.command;
    tracing::info!(command_id, %kind, actor, is_pending = pending_until.is_some(), "asked for in the console");
    Ok(())
}

/// The actions.
pub(super) async fn actions(State(console): Shared, Extension(viewer): Extension<Viewer>) -> Response {
    written(console, viewer, |look| shown(pages::actions(look))).await
}

/// One action, and what came of it.
pub(super) async fn action(
    State(console): Shared,
    Extension(viewer): Extension<Viewer>,
    Path(id): Path<String>,
) -> Response {
    written(console, viewer, move |look| action_page(look, &id, None, StatusCode::OK)).await
}

fn action_page(look: &Look<'_>, id: &str, wrong: Option<&str>, status: StatusCode) -> Response {
    match pages::action(look, id, wrong) {
        Some(page) => (status, shown(page)).into_response(),
        // It is on the topic, and this console has not read it yet.
        None if is_id(id) && look.may_act() => shown(pages::action_to_come(look)),
        None => {
            told(look, StatusCode::NOT_FOUND, "No such action", "There is no action of this id, or it is too long ago.")
        }
    }
}

/// The second person's answer.
pub(super) async fn answer(
    State(console): Shared,
    Extension(viewer): Extension<Viewer>,
    Path(id): Path<String>,
    headers: HeaderMap,
    fields: FormFields,
) -> Response {
    carried_out(console, viewer, move |look| {
        let Some(form) = fields.ok().and_then(|Fields(fields)| Form::new(fields).ok()) else { return not_a_form(look) };
        let (operating, person) = match operator(look, &headers, &form) {
            Ok(sender) => sender,
            Err(Refused(answer)) => return *answer,
        };
        match answered(look.console(), operating, person, &id, &form) {
            Ok(()) => go_to(&page_of(&id)),
            Err(Undone::Wrong(why)) => action_page(look, &id, Some(&why), StatusCode::UNPROCESSABLE_ENTITY),
            Err(Undone::Away(why)) => action_page(look, &id, Some(&why), StatusCode::SERVICE_UNAVAILABLE),
        }
    })
    .await
}

fn answered(console: &Console, operating: &Operating, person: &Person, id: &str, form: &Form) -> Result<(), Undone> {
    let now = console.now();
    let wrong = |what: &str| Undone::Wrong(what.to_owned());
    let (request, outcome) = {
        let board = console.board();
        let request = board.trail().get(id).ok_or_else(|| wrong("there is no such request"))?.clone();
        let outcome = board.outcome(&request, now);
        (request, outcome)
    };
    if !matches!(outcome, Outcome::Waits { .. }) {
        return Err(wrong("it waits for nobody any more"));
    }
    let reason = form.get("reason");
    if reason.is_empty() || reason.len() > TEXT_BYTES_MAX {
        return Err(Undone::Wrong(format!("reason: say why, in at most {TEXT_BYTES_MAX} bytes")));
    }
    let command = match form.get("answer") {
        "approve" if person.name.eq_ignore_ascii_case(&request.actor) => {
            return Err(wrong("it was you who asked for it; somebody else must agree"));
        }
        "approve" => Command {
            // One id for whoever agrees, so that two at once are one command.
            command_id: format!("{id}-approved"),
            at: now,
            approved_by: Some(person.name.clone()),
            answers: Some(id.to_owned()),
            pending_until: None,
            detail: format!("{} agreed: {reason}", person.name),
            ..request
        },
        "reject" => {
            let by = giver(person, &format!("{id}-rejected"), reason, now);
            let no = by.command(CommandKind::Reject, &request.tenant, request.scope, &request.value);
            Command { answers: Some(id.to_owned()), incident_id: request.incident_id, ..no }
        }
        _ => return Err(wrong("answer: approve or reject")),
    };
    operating.hands.ask(&Asked::new(command).map_err(Undone::Wrong)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_fine(headers: &[(&'static str, &str)], origin: Option<&str>) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        is_from_here(&map, origin)
    }

    #[test]
    fn only_a_page_of_this_console_is_heard() {
        let host = ("host", "127.0.0.1:8480");
        assert!(is_fine(&[host, ("origin", "http://127.0.0.1:8480"), ("sec-fetch-site", "same-origin")], None));
        assert!(is_fine(&[host, ("origin", "http://127.0.0.1:8480")], None));
        assert!(is_fine(&[host, ("sec-fetch-site", "same-origin")], None));
        let public = Some("https://portcullis.example.com");
        assert!(is_fine(&[host, ("origin", "https://Portcullis.example.com")], public));
        for headers in [
            &[host][..],
            &[host, ("origin", "null")],
            &[host, ("origin", "http://evil.example")],
            &[host, ("origin", "http://127.0.0.1:8481")],
            &[host, ("origin", "http://127.0.0.1:8480"), ("sec-fetch-site", "cross-site")],
            &[host, ("origin", "http://127.0.0.1:8480"), ("sec-fetch-site", "same-site")],
            &[host, ("sec-fetch-site", "none")],
            &[("origin", "http://127.0.0.1:8480")],
            &[host, ("origin", "https://portcullis.example.com")],
        ] {
            assert!(!is_fine(headers, None), "{headers:?}");
        }
    }

    #[test]
    fn one_is_sent_nowhere_else() {
        assert_eq!(within("/blocks?tenant=shop&value=a%20b"), "/blocks?tenant=shop&value=a%20b");
        for next in ["", "//evil.example", "/\\evil.example", "https://evil.example", "blocks", "/a\r\nb", "/ü"] {
            assert_eq!(within(next), "/", "{next}");
        }
        assert_eq!(within(&format!("/{}", "x".repeat(NEXT_BYTES_MAX))), "/");
    }

    #[test]
    fn an_id_is_sixteen_digits() {
        assert!(is_id("0123456789abcdef"));
        for id in ["", "0123456789abcde", "0123456789ABCDEF", "0123456789abcdef-approved", "../../../../etc/x"] {
            assert!(!is_id(id), "{id}");
        }
    }
}
