//! HTTP around the board: pages, exports, and news.
//!
//! Nothing is changed by a `GET`; what is changed by a `POST` is in [`acting`](super::acting). Without keys only whoever
//! reaches a loopback address gets in, and only by its own name: a page of somebody else's whose name suddenly points here
//! is refused. With keys each request carries one, as a bearer's token or as the password that a browser asks for; or its
//! sender is signed in, or named by a proxy that is believed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Extension, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use futures_util::stream::unfold;
use maud::Markup;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::acting::{self, FORM_BYTES_MAX, Peer, to_sign_in};
use super::export::{Export, FileKind, STYLE};
use super::look::{Look, Viewer, peer};
use super::pages::{self, BlocksQuery, OverviewQuery, WhoQuery, problem};
use super::shared::{Admission, Console};

const SCRIPT: &str = include_str!("console.js");
const ICON: &str = include_str!("icon.svg");

/// News are told at most this often, and what ages is renewed at least this often.
const NEWS_EVERY: Duration = Duration::from_millis(500);
const PULSE_EVERY: Duration = Duration::from_secs(5);

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// With every answer.
const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // With none at all, a browser would not say either which page a form was sent by.
    (header::REFERRER_POLICY, "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

pub(super) type Shared = State<Arc<Console>>;

/// Everything that a console answers. `probes` are the routes that every process has.
pub fn routes(console: Arc<Console>, probes: Router) -> Router {
    Router::new()
        .route("/", get(overview))
        .route("/incidents", get(incidents))
        .route("/incidents/{id}", get(report))
        .route("/incidents/{id}/{file}", get(export))
        .route("/who", get(who))
        .route("/blocks", get(blocks))
        .route("/playbooks", get(playbooks))
        .route("/edges", get(edges))
        .route("/actions", get(acting::actions))
        .route("/actions/{id}", get(acting::action))
        .route("/actions/{id}/answer", post(acting::answer))
        .route("/act", get(acting::act_form).post(acting::act))
        .route("/sign-in", get(acting::sign_in_form).post(acting::sign_in))
        .route("/sign-out", post(acting::sign_out))
        .route("/events", get(events))
        .route("/assets/console.css", get(|| async { asset("text/css; charset=utf-8", STYLE) }))
        .route("/assets/console.js", get(|| async { asset("text/javascript; charset=utf-8", SCRIPT) }))
        .route("/assets/icon.svg", get(|| async { asset("image/svg+xml", ICON) }))
        .fallback(nowhere)
        .with_state(Arc::clone(&console))
        .merge(probes)
        .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
        .layer(from_fn_with_state(console, guard))
}

fn asset(media_type: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, media_type)], text).into_response()
}

/// Lets in whoever may look, and says with every answer what a browser may do with it.
async fn guard(State(console): Shared, mut request: Request, next: Next) -> Response {
    let peer = peer(request.extensions());
    let viewer = Viewer::of(&console, request.headers(), peer);
    let mut answer = match refusal(&console, &viewer, &request) {
        Some(refusal) => refusal,
        None => {
            request.extensions_mut().insert(viewer);
            request.extensions_mut().insert(Peer(peer));
            next.run(request).await
        }
    };
    let headers = answer.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

fn refusal(console: &Console, viewer: &Viewer, request: &Request) -> Option<Response> {
    let (headers, path) = (request.headers(), request.uri().path());
    // Whoever keeps processes running asks these.
    if matches!(path, "/livez" | "/readyz") {
        return None;
    }
    let origin = console.operating().and_then(|operating| operating.operators.origin());
    if console.is_open() && !names_this_machine(headers) && !names(headers, origin) {
        return Some((StatusCode::FORBIDDEN, "ask for localhost, or start the console with keys\n").into_response());
    }
    // Whoever wants to sign in must be able to, and to see how.
    let is_for_all = path == "/sign-in" || path.starts_with("/assets/");
    if console.is_open() || viewer.person.is_some() || (console.operating().is_some() && is_for_all) {
        return None;
    }
    let presented = presented(headers);
    if console.operating().is_some() && (presented.is_none() || !console.has_keys()) {
        let wants_page =
            headers.get(header::ACCEPT).is_some_and(|of| of.to_str().is_ok_and(|of| of.contains("text/html")));
        return Some(if request.method() == Method::GET && wants_page {
            to_sign_in(request.uri().path_and_query().map_or("/", |of| of.as_str()))
        } else {
            (StatusCode::UNAUTHORIZED, "sign in first, at /sign-in\n").into_response()
        });
    }
    match console.admits(presented.as_deref()) {
        Admission::Welcome => None,
        Admission::NoKey => {
            let ask = [(header::WWW_AUTHENTICATE, "Basic realm=\"Portcullis\", charset=\"UTF-8\"")];
            Some(
                (StatusCode::UNAUTHORIZED, ask, "a key is needed: as the password, or as a bearer's token\n")
                    .into_response(),
            )
        }
        Admission::TooMany => {
            Some((StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1")], "too many wrong keys\n").into_response())
        }
    }
}

/// Whether the request asks for the origin under which people reach the console through a proxy.
fn names(headers: &HeaderMap, origin: Option<&str>) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = origin.and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    host.zip(authority).is_some_and(|(host, authority)| host.eq_ignore_ascii_case(authority))
}

/// Whether the request asks for this machine by a name that nobody else can point here.
fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) && !name.is_empty() => name,
        Some(_) | None => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn presented(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    if let Some(token) = value.strip_prefix(b"Bearer ") {
        return Some(token.to_vec());
    }
    let pair = base64::prelude::BASE64_STANDARD.decode(value.strip_prefix(b"Basic ")?).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    pair.get(colon + 1..).map(<[u8]>::to_vec)
}

/// Writes a page on a thread where no other request waits for it.
pub(super) async fn written(
    console: Arc<Console>,
    viewer: Viewer,
    write: impl FnOnce(&Look<'_>) -> Response + Send + 'static,
) -> Response {
    let room = console.room_for_page().await;
    on_a_thread(console, viewer, room, write).await
}

/// The same for what waits for the cluster: it takes no page's room.
pub(super) async fn carried_out(
    console: Arc<Console>,
    viewer: Viewer,
    act: impl FnOnce(&Look<'_>) -> Response + Send + 'static,
) -> Response {
    match console.room_to_act() {
        Some(room) => on_a_thread(console, viewer, Some(room), act).await,
        None => {
            let retry = [(header::RETRY_AFTER, "5")];
            (
                StatusCode::SERVICE_UNAVAILABLE,
                retry,
                "other actions wait for the cluster; nothing was done, try again\n",
            )
                .into_response()
        }
    }
}

async fn on_a_thread(
    console: Arc<Console>,
    viewer: Viewer,
    room: Option<OwnedSemaphorePermit>,
    write: impl FnOnce(&Look<'_>) -> Response + Send + 'static,
) -> Response {
    let page = tokio::task::spawn_blocking(move || {
        let _room = room;
        write(&Look::new(&console, &viewer))
    });
    page.await
        .unwrap_or_else(|_| (StatusCode::INTERNAL_SERVER_ERROR, "this page could not be written\n").into_response())
}

pub(super) fn shown(page: Markup) -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page.into_string()).into_response()
}

pub(super) fn told(console: &Look<'_>, status: StatusCode, title: &str, what: &str) -> Response {
    (status, shown(problem(console, title, what))).into_response()
}

async fn overview(
    State(console): Shared,
    Extension(viewer): Extension<Viewer>,
    query: Result<Query<OverviewQuery>, QueryRejection>,
) -> Response {
    let query = query.map(|Query(query)| query).unwrap_or_default();
    written(console, viewer, move |console| shown(pages::overview(console, &query))).await
}

async fn incidents(State(console): Shared, Extension(viewer): Extension<Viewer>) -> Response {
    written(console, viewer, |console| shown(pages::incidents(console))).await
}

async fn blocks(
    State(console): Shared,
    Extension(viewer): Extension<Viewer>,
    query: Result<Query<BlocksQuery>, QueryRejection>,
) -> Response {
    let query = query.map(|Query(query)| query).unwrap_or_default();
    written(console, viewer, move |console| shown(pages::blocks(console, &query))).await
}

async fn playbooks(State(console): Shared, Extension(viewer): Extension<Viewer>) -> Response {
    written(console, viewer, |console| shown(pages::playbooks(console))).await
}

async fn edges(State(console): Shared, Extension(viewer): Extension<Viewer>) -> Response {
    written(console, viewer, |console| shown(pages::edges(console))).await
}

async fn who(
    State(console): Shared,
    Extension(viewer): Extension<Viewer>,
    query: Result<Query<WhoQuery>, QueryRejection>,
) -> Response {
    let query = query.map(|Query(query)| query).unwrap_or_default();
    written(console, viewer, move |console| match pages::who(console, &query) {
        Ok(page) => shown(page),
        Err(what) => told(console, StatusCode::BAD_REQUEST, "Whom?", &what),
    })
    .await
}

async fn nowhere(State(console): Shared, Extension(viewer): Extension<Viewer>) -> Response {
    written(console, viewer, |console| told(console, StatusCode::NOT_FOUND, "Nothing here", "There is no such page."))
        .await
}

async fn report(State(console): Shared, Extension(viewer): Extension<Viewer>, Path(id): Path<String>) -> Response {
    written(console, viewer, move |console| match console.report(&id) {
        Ok(Some(report)) => shown(pages::report(console, &report)),
        Ok(None) => no_incident(console),
        Err(error) => fault(console, &error.to_string()),
    })
    .await
}

fn no_incident(console: &Look<'_>) -> Response {
    told(
        console,
        StatusCode::NOT_FOUND,
        "No such incident",
        "There is no incident of this id, or it is not held any more.",
    )
}

fn fault(console: &Look<'_>, error: &str) -> Response {
    tracing::error!(error, "a page could not be written");
    told(
        console,
        StatusCode::INTERNAL_SERVER_ERROR,
        "This did not work",
        "The console could not read its store; its log says why.",
    )
}

/// A file of an incident, a piece at a time: the next one is read when the last one is on its way.
async fn export(
    State(console): Shared,
    Extension(viewer): Extension<Viewer>,
    Path((id, file)): Path<(String, String)>,
) -> Response {
    let Some(kind) = FileKind::of_name(&file) else { return nowhere(State(console), Extension(viewer)).await };
    let Some(room) = console.room_for_export() else {
        let retry = [(header::RETRY_AFTER, "5")];
        return (StatusCode::SERVICE_UNAVAILABLE, retry, "too many exports at once; try again in a moment\n")
            .into_response();
    };
    let asked = Arc::clone(&console);
    let begun = tokio::task::spawn_blocking(move || match asked.report(&id) {
        Ok(Some(report)) => Ok((Export::new(&report, kind), report.incident.tenant, id)),
        Ok(None) => Err(Box::new(no_incident(&Look::new(&asked, &viewer)))),
        Err(error) => Err(Box::new(fault(&Look::new(&asked, &viewer), &error.to_string()))),
    });
    let (export, tenant, id) = match begun.await {
        Ok(Ok(begun)) => begun,
        Ok(Err(answer)) => return *answer,
        Err(_) => return (StatusCode::INTERNAL_SERVER_ERROR, "this did not work\n").into_response(),
    };
    let pieces = unfold(Some((export, console, room)), |state| async move {
        let (mut export, console, room) = state?;
        let read = tokio::task::spawn_blocking(move || {
            let piece = export.next(console.disk());
            (piece, export, console)
        });
        match read.await {
            Ok((Ok(Some(piece)), export, console)) => Some((Ok(Bytes::from(piece)), Some((export, console, room)))),
            Ok((Ok(None), ..)) => None,
            // The connection is cut, so that half a list is not taken for all of it.
            Ok((Err(error), ..)) => Some((Err(std::io::Error::other(error.to_string())), None)),
            Err(error) => Some((Err(std::io::Error::other(error.to_string())), None)),
        }
    });
    let short: String = id.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    let name = format!("attachment; filename=\"incident-{tenant}-{short}-{file}\"");
    let name = HeaderValue::from_str(&name).unwrap_or_else(|_| HeaderValue::from_static("attachment"));
    let headers =
        [(header::CONTENT_TYPE, HeaderValue::from_static(kind.media_type())), (header::CONTENT_DISPOSITION, name)];
    (headers, Body::from_stream(pieces)).into_response()
}

/// News: that something is different, and a pulse.
async fn events(State(console): Shared) -> Response {
    let Some(room) = console.room_to_listen() else {
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")], "too many listeners\n").into_response();
    };
    let listener = Listener { told: console.told(), is_first: true, _room: room };
    drop(console);
    let events = unfold(listener, |mut listener| async move {
        let event = listener.next().await?;
        Some((Ok::<_, Infallible>(event), listener))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

struct Listener {
    told: watch::Receiver<u64>,
    is_first: bool,
    _room: OwnedSemaphorePermit,
}

impl Listener {
    /// The next news; nothing when the console stops.
    async fn next(&mut self) -> Option<Event> {
        if std::mem::take(&mut self.is_first) {
            return Some(self.event("hello"));
        }
        tokio::time::sleep(NEWS_EVERY).await;
        match tokio::time::timeout(PULSE_EVERY, self.told.changed()).await {
            Ok(Ok(())) => Some(self.event("news")),
            Ok(Err(_)) => None,
            Err(_) => Some(self.event("pulse")),
        }
    }

    fn event(&mut self, what: &str) -> Event {
        let changes = *self.told.borrow_and_update();
        Event::default().data(format!("{what} {changes}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_its_own() {
        let is_ours = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
            names_this_machine(&headers)
        };
        for host in ["localhost", "LOCALHOST:8480", "127.0.0.1:8480", "[::1]:8480", "127.8.9.1"] {
            assert!(is_ours(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:8480", "192.0.2.1:8480", "", "127.0.0.1.evil.example"] {
            assert!(!is_ours(host), "{host}");
        }
        assert!(names_this_machine(&HeaderMap::new()));
    }
}
