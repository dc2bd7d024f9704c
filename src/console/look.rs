//! Who looks at a page, and so what it offers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Deref;

use axum::extract::ConnectInfo;
use axum::http::{Extensions, HeaderMap, header};

use super::hands::Operating;
use super::operators::{Person, Role};
use super::sessions::Session;
use super::shared::Console;

/// The cookie of a session; behind TLS under a name that a browser gives to nobody but this origin.
const COOKIE: &str = "portcullis";
const SECURE_COOKIE: &str = "__Host-portcullis";

/// Who looks.
#[derive(Debug, Clone, Default)]
pub(super) struct Viewer {
    pub(super) person: Option<Person>,
    /// By a session of their own; `None`: by the word of a proxy.
    pub(super) session: Option<Session>,
}

impl Viewer {
    /// Whom a request comes from: by its session, else by what a proxy says.
    pub(super) fn of(console: &Console, headers: &HeaderMap, peer: IpAddr) -> Viewer {
        let Some(operating) = console.operating() else { return Viewer::default() };
        let session = cookie(operating, headers)
            .and_then(|value| operating.sessions.open(value, &operating.operators, console.now()));
        match session {
            Some(session) => Viewer { person: Some(session.person.clone()), session: Some(session) },
            None => Viewer { person: operating.operators.by_proxy(peer, headers), session: None },
        }
    }

    /// What a form of theirs is bound to.
    fn bound_to(&self) -> Option<String> {
        match (&self.session, &self.person) {
            (Some(session), _) => Some(format!("session|{}", session.number)),
            (None, Some(person)) => Some(format!("proxy|{}", person.name)),
            (None, None) => None,
        }
    }
}

/// The address at the other end of the connection.
pub(super) fn peer(extensions: &Extensions) -> IpAddr {
    let info = extensions.get::<ConnectInfo<SocketAddr>>();
    info.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(address)| address.ip())
}

fn cookie_name(operating: &Operating) -> &'static str {
    let is_secure = operating.operators.origin().is_some_and(|origin| origin.starts_with("https:"));
    if is_secure { SECURE_COOKIE } else { COOKIE }
}

fn cookie<'a>(operating: &Operating, headers: &'a HeaderMap) -> Option<&'a str> {
    let name = cookie_name(operating);
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(own, _)| *own == name).map(|(_, value)| value)
}

/// What sets a session's cookie; an empty value takes it away.
pub(super) fn set_cookie(operating: &Operating, value: &str) -> String {
    let name = cookie_name(operating);
    let secure = if name == SECURE_COOKIE { "; Secure" } else { "" };
    let seconds = if value.is_empty() { 0 } else { super::sessions::SESSION_MS / 1_000 };
    format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
}

/// A console and who looks at it.
#[derive(Clone, Copy)]
pub(super) struct Look<'a> {
    console: &'a Console,
    pub(super) viewer: &'a Viewer,
}

impl Deref for Look<'_> {
    type Target = Console;

    fn deref(&self) -> &Console {
        self.console
    }
}

impl<'a> Look<'a> {
    pub(super) const fn new(console: &'a Console, viewer: &'a Viewer) -> Look<'a> {
        Look { console, viewer }
    }

    pub(super) const fn console(&self) -> &'a Console {
        self.console
    }

    /// Whether they may act.
    pub(super) fn may_act(&self) -> bool {
        self.operating().is_some() && self.viewer.person.as_ref().is_some_and(|person| person.role == Role::Operator)
    }

    /// What a form carries so that it is known to be theirs.
    pub(super) fn form_token(&self) -> String {
        let of = self.viewer.bound_to();
        self.operating().zip(of).map_or_else(String::new, |(operating, of)| operating.sessions.form_token(&of))
    }

    pub(super) fn is_form_token(&self, presented: &str) -> bool {
        let of = self.viewer.bound_to();
        self.operating().zip(of).is_some_and(|(operating, of)| operating.sessions.is_form_token(&of, presented))
    }
}
