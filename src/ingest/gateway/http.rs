//! HTTP around the gateway.
//!
//! | route | takes |
//! | --- | --- |
//! | `POST /v1/events` | login events of the contract: one, an array, a line each, or as CloudEvents |
//! | `POST /v1/adapters/{name}` | what a producer writes, as it writes it |
//! | `GET /v1/adapters/{name}` | Okta's question whether this is the right place |
//! | `GET /v1/openapi.json` | nothing; says all this |
//!
//! | answer | means |
//! | --- | --- |
//! | 202 | every event is on the topic |
//! | 207 | some are; the body has the others, by their places, and sending those again as they are is of no use |
//! | 400, 413, 415 | none is: what is wrong stands in the body |
//! | 401, 403 | no key, or not one for this route |
//! | 408 | the body took too long |
//! | 429, 503 | not now: send it again after `Retry-After` seconds. With 503 the body may name those that were taken |

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use futures_util::StreamExt as _;
use metrics::histogram;
use tokio::sync::OwnedSemaphorePermit;

use super::answer::Answer;
use super::body::{BinaryMode, items, media};
use super::check::{checked, checked_event};
use super::shared::{Fault, Gateway, Given};
use super::signature::Signature;
use super::sources::Source;
use crate::event::{Millis, Reason, Reject};
use crate::ingest::adapters::{Adapters, Read};

/// How long a client may take to send a body.
pub const BODY_WAIT_MAX: Duration = Duration::from_secs(30);
/// Of a body that is too long, so much is read beyond what it may have.
const DROPPED_BYTES_MAX: usize = 16 << 20;
/// And no longer than until it pauses for so long.
const DROP_PAUSE_MAX: Duration = Duration::from_secs(1);
/// After so many seconds a client is to try again where the cluster is away, or where there is no room.
const RETRY_SECONDS: u64 = 1;

/// What the gateway says of itself.
pub const OPENAPI: &str = include_str!("../../../schemas/ingest.openapi.json");

const EVENTS: &str = "events";
const OKTA_CHALLENGE: &str = "x-okta-verification-challenge";
const SIGNATURE: &str = "x-portcullis-signature";
const SOURCE: &str = "x-portcullis-source";
const API_KEY: &str = "x-api-key";

/// Longest challenge that is answered.
const CHALLENGE_BYTES_MAX: usize = 1 << 10;

/// The routes that a source may be held to, by the names in the file of sources.
#[must_use]
pub fn route_names(adapters: &Adapters) -> Vec<String> {
    std::iter::once(EVENTS.to_owned()).chain(adapters.names()).collect()
}

/// Everything that a gateway answers.
pub fn routes(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/v1/events", post(events))
        .route("/v1/adapters/{name}", post(adapter).get(challenge))
        .route("/v1/openapi.json", get(|| async { ([(header::CONTENT_TYPE, "application/json")], OPENAPI) }))
        .with_state(gateway)
}

async fn events(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    respond(&gateway, EVENTS, request, login_events).await
}

async fn adapter(State(gateway): State<Arc<Gateway>>, Path(name): Path<String>, request: Request) -> Response {
    let adapters = &gateway.options.adapters;
    respond(&gateway, &name, request, |_, body, source, now| {
        // Producers say all kinds of things in Content-Type, so it is not looked at.
        let read = adapters.read(&name, body, now).ok_or(Fault::NoSuchAdapter)?.map_err(Fault::NotUnderstood)?;
        Ok(read
            .into_iter()
            .map(|one| match one {
                Read::Event(event) => checked_event(*event, source, now).map_or_else(Given::Rejected, Given::Event),
                Read::Ignored => Given::Ignored,
                Read::Rejected(reject) => Given::Rejected(reject),
            })
            .collect())
    })
    .await
}

/// Okta asks once, without a key, whether an event hook's address answers, and wants its own word back.
async fn challenge(headers: HeaderMap) -> Response {
    match text_of(&headers, OKTA_CHALLENGE).filter(|text| text.len() <= CHALLENGE_BYTES_MAX) {
        Some(text) => Json(serde_json::json!({ "verification": text })).into_response(),
        None => (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST")]).into_response(),
    }
}

/// The login events of a body of the contract's own.
fn login_events(headers: &HeaderMap, body: &[u8], source: &Source, now: Millis) -> Result<Vec<Given>, Fault> {
    let media = media(text_of(headers, header::CONTENT_TYPE.as_str())).map_err(Fault::Media)?;
    let items = items(media, binary_mode(headers).as_ref(), body).map_err(Fault::NotUnderstood)?;
    let checked = items.into_iter().map(|item| item.and_then(|bytes| checked(bytes, source, now)));
    Ok(checked.map(|checked| checked.map_or_else(Given::Rejected, Given::Event)).collect())
}

async fn respond(
    gateway: &Gateway,
    route: &str,
    request: Request,
    read: impl FnOnce(&HeaderMap, &[u8], &Source, Millis) -> Result<Vec<Given>, Fault>,
) -> Response {
    let began = gateway.elapsed();
    let answer = take(gateway, route, request, read).await;
    histogram!("portcullis_ingest_request_seconds").record(gateway.elapsed().saturating_sub(began).as_secs_f64());
    match answer {
        Ok(answer) => answered(&answer),
        Err(fault) => {
            gateway.count_fault(&fault);
            refused(&fault)
        }
    }
}

async fn take(
    gateway: &Gateway,
    route: &str,
    request: Request,
    read: impl FnOnce(&HeaderMap, &[u8], &Source, Millis) -> Result<Vec<Given>, Fault>,
) -> Result<Answer, Fault> {
    let (head, body) = request.into_parts();
    let (source, signature) = source_of(gateway, &head.headers)?;
    if !source.may_use(route) {
        return Err(Fault::NotAllowed);
    }
    if !gateway.is_ready() {
        return Err(Fault::NotReady);
    }
    let encoding = text_of(&head.headers, header::CONTENT_ENCODING.as_str()).unwrap_or("identity");
    if !encoding.eq_ignore_ascii_case("identity") {
        let what = "header Content-Encoding: send the body as it is, without compression";
        return Err(Fault::Media(Reject::new(Reason::UnknownEncoding, what)));
    }
    let (body, room) = body_of(gateway, &head.headers, body).await?;
    let now = gateway.now();
    if signature.is_some_and(|signature| !source.has_signed(&signature, &body, now)) {
        return Err(Fault::NoKey);
    }
    let given = read(&head.headers, &body, source, now)?;
    source.take(given.len(), now).map_err(Fault::OverRate)?;
    drop((body, room));
    gateway.write(given).await
}

/// Who sends this: by a token, or by a signature that is still to be checked.
fn source_of<'a>(gateway: &'a Gateway, headers: &HeaderMap) -> Result<(&'a Source, Option<Signature>), Fault> {
    let sources = &gateway.options.sources;
    if let Some(text) = text_of(headers, SIGNATURE) {
        let signature = Signature::parse(text).ok_or(Fault::NoKey)?;
        let source = text_of(headers, SOURCE).and_then(|name| sources.that_signs(name)).ok_or(Fault::NoKey)?;
        return Ok((source, Some(signature)));
    }
    let token = token_of(headers).ok_or(Fault::NoKey)?;
    let source = sources.by_token(&token).ok_or(Fault::NoKey)?;
    Ok((source, None))
}

/// The token of a request: `X-Api-Key`, a bearer's, the password of whatever user, or `Authorization` as it is, which is
/// all that some identity providers send.
fn token_of(headers: &HeaderMap) -> Option<Vec<u8>> {
    if let Some(key) = headers.get(API_KEY) {
        return Some(key.as_bytes().to_vec());
    }
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    if let Some(token) = value.strip_prefix(b"Bearer ") {
        return Some(token.to_vec());
    }
    let Some(pair) = value.strip_prefix(b"Basic ") else { return Some(value.to_vec()) };
    let pair = base64::prelude::BASE64_STANDARD.decode(pair).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    pair.get(colon + 1..).map(<[u8]>::to_vec)
}

/// A header that is text.
fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The body, and its room.
async fn body_of(gateway: &Gateway, headers: &HeaderMap, body: Body) -> Result<(Vec<u8>, OwnedSemaphorePermit), Fault> {
    let most = gateway.options.limits.body_bytes;
    // A body of unknown length takes the room of the largest.
    let said = text_of(headers, header::CONTENT_LENGTH.as_str()).and_then(|text| text.parse().ok()).unwrap_or(most);
    if said > most {
        // Whoever asks before sending is told at once.
        if !headers.contains_key(header::EXPECT) {
            wait_for(drop_rest(body.into_data_stream())).await?;
        }
        return Err(Fault::BodyTooLarge(most));
    }
    let room = gateway.room_for_body(said)?;
    match wait_for(read(body, most)).await? {
        Some(bytes) => Ok((bytes, room)),
        None => Err(Fault::BodyTooLarge(most)),
    }
}

async fn wait_for<T>(reading: impl Future<Output = T>) -> Result<T, Fault> {
    tokio::time::timeout(BODY_WAIT_MAX, reading).await.map_err(|_| Fault::SlowBody)
}

/// A body of at most so many bytes; `None` of a longer one, and when the client hung up.
async fn read(body: Body, most: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.ok()?;
        if bytes.len() + piece.len() > most {
            drop_rest(pieces).await;
            return None;
        }
        bytes.extend_from_slice(&piece);
    }
    Some(bytes)
}

/// Reads on for a while and keeps nothing: who is in the middle of sending reads no answer yet, and the end of the
/// connection would overtake it.
async fn drop_rest(mut pieces: BodyDataStream) {
    let mut length = 0;
    while length < DROPPED_BYTES_MAX
        && let Ok(Some(Ok(piece))) = tokio::time::timeout(DROP_PAUSE_MAX, pieces.next()).await
    {
        length += piece.len();
    }
}

/// The headers of a CloudEvent in binary mode, whose values are percent-encoded.
fn binary_mode(headers: &HeaderMap) -> Option<BinaryMode> {
    let text = |name: &str| text_of(headers, name).map(decoded);
    Some(BinaryMode {
        specversion: text("ce-specversion")?,
        id: text("ce-id"),
        source: text("ce-source"),
        kind: text("ce-type"),
        time: text("ce-time"),
    })
}

/// A text without its percent encoding; what is no such encoding stays.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn answered(answer: &Answer) -> Response {
    let good = answer.accepted + answer.ignored > 0;
    let status = match (answer.unavailable.is_empty(), answer.rejected.is_empty()) {
        (false, _) => StatusCode::SERVICE_UNAVAILABLE,
        (true, true) => StatusCode::ACCEPTED,
        (true, false) if good => StatusCode::MULTI_STATUS,
        (true, false) => StatusCode::BAD_REQUEST,
    };
    let retry = (status == StatusCode::SERVICE_UNAVAILABLE).then(|| retry_after(RETRY_SECONDS));
    (status, retry, Json(answer)).into_response()
}

fn retry_after(seconds: u64) -> [(header::HeaderName, HeaderValue); 1] {
    [(header::RETRY_AFTER, HeaderValue::from(seconds))]
}

fn refused(fault: &Fault) -> Response {
    let (status, message, retry) = match fault {
        Fault::NotReady => {
            (StatusCode::SERVICE_UNAVAILABLE, "the cluster is away; nothing was taken".to_owned(), Some(RETRY_SECONDS))
        }
        Fault::Busy => {
            (StatusCode::SERVICE_UNAVAILABLE, "no room now; nothing was taken".to_owned(), Some(RETRY_SECONDS))
        }
        Fault::OverRate(seconds) => (
            StatusCode::TOO_MANY_REQUESTS,
            "this source sends more events a second than it may; nothing was taken".to_owned(),
            Some(*seconds),
        ),
        Fault::NoKey => (
            StatusCode::UNAUTHORIZED,
            "a key is needed: Authorization: Bearer TOKEN, or X-Portcullis-Source and X-Portcullis-Signature of this minute"
                .to_owned(),
            None,
        ),
        Fault::NotAllowed => (StatusCode::FORBIDDEN, "this source may not use this route".to_owned(), None),
        Fault::BodyTooLarge(most) => {
            (StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {most} bytes; send it in pieces"), None)
        }
        Fault::SlowBody => {
            let seconds = BODY_WAIT_MAX.as_secs();
            (StatusCode::REQUEST_TIMEOUT, format!("the body did not come within {seconds} s; nothing was taken"), None)
        }
        Fault::Media(reject) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, reject.detail.clone(), None),
        Fault::NotUnderstood(reject) if reject.reason == Reason::TooLarge => {
            (StatusCode::PAYLOAD_TOO_LARGE, reject.detail.clone(), None)
        }
        Fault::NotUnderstood(reject) => (StatusCode::BAD_REQUEST, reject.to_string(), None),
        Fault::NoSuchAdapter => (StatusCode::NOT_FOUND, "there is no such adapter".to_owned(), None),
    };
    let challenge = (*fault == Fault::NoKey).then_some([(header::WWW_AUTHENTICATE, "Bearer")]);
    let answer = Answer { message: Some(message), ..Answer::default() };
    (status, challenge, retry.map(retry_after), Json(answer)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_wherever_they_are_sent() {
        let token = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
            token_of(&headers).map(|token| String::from_utf8(token).unwrap())
        };
        let found = Some("secret".to_owned());
        assert_eq!(token("authorization", "Bearer secret"), found);
        assert_eq!(token("authorization", "secret"), found);
        // okta:secret
        assert_eq!(token("authorization", "Basic b2t0YTpzZWNyZXQ="), found);
        assert_eq!(token("x-api-key", "secret"), found);
        assert_eq!(token("authorization", "Basic !"), None);
        assert_eq!(token("cookie", "secret"), None);
    }

    #[test]
    fn headers_of_cloud_events_are_percent_encoded() {
        assert_eq!(decoded("a%20b%C3%A9%"), "a bé%");
        assert_eq!(decoded("%zz%2"), "%zz%2");
        assert_eq!(decoded("%ff"), "\u{fffd}");
    }

    #[test]
    fn an_answer_has_the_status_of_its_worst_event_that_matters() {
        let rejected = || vec![super::super::Rejected::new(0, &Reject::new(Reason::WrongType, ""))];
        let status = |accepted, ignored, bad: bool, away: bool| {
            let answer = Answer {
                accepted,
                ignored,
                rejected: if bad { rejected() } else { Vec::new() },
                unavailable: if away { vec![1] } else { Vec::new() },
                ..Answer::default()
            };
            answered(&answer).status().as_u16()
        };
        for (seen, want) in [
            (status(1, 0, false, false), 202),
            (status(0, 1, false, false), 202),
            (status(1, 0, true, false), 207),
            (status(0, 1, true, false), 207),
            (status(0, 0, true, false), 400),
            (status(1, 0, true, true), 503),
            (status(0, 0, false, true), 503),
        ] {
            assert_eq!(seen, want);
        }
    }
}
