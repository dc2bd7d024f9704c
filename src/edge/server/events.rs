//! `GET /v1/attack-status/{tenant}/events`: the attack status as server-sent events, at once and then whenever another one
//! holds, for whoever wants to be told instead of asking.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream::unfold;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::Server;
use super::http::Shared;
use super::shared::{Fault, tenant_of};
use crate::event::AttackStatus;

/// Most listeners at a time.
pub const LISTENERS_MAX: usize = 1_000;
/// How often it is looked whether a status has run out, when nothing is told.
const LOOK: Duration = Duration::from_secs(1);

pub(super) fn event_routes() -> Router<Arc<Server>> {
    Router::new().route("/v1/attack-status/{tenant}/events", get(events))
}

async fn events(State(server): Shared, headers: HeaderMap, Path(tenant): Path<String>) -> Response {
    let admitted = server.admit(&headers).and_then(|_| tenant_of(&server.lists(), Some(&tenant)).map(|_| ()));
    let room = admitted.and_then(|()| server.room_to_listen().ok_or(Fault::NotReady));
    let room = match room {
        Ok(room) => room,
        Err(fault) => return server.fault_to_page(&fault),
    };
    let listener = Listener { told: server.told(), server, tenant, last: None, _room: room };
    let events = unfold(listener, |mut listener| async move {
        let event = listener.next().await?;
        Some((Ok::<_, Infallible>(event), listener))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

struct Listener {
    server: Arc<Server>,
    tenant: String,
    /// Changes with every status that is told, and closes with the server.
    told: watch::Receiver<u64>,
    last: Option<AttackStatus>,
    _room: OwnedSemaphorePermit,
}

impl Listener {
    /// The next status that is another one; nothing when the server stops.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let status = self.server.status_of(&self.tenant);
            // What holds when nothing is said bears the time of the question.
            let is_another = self.last.as_ref().is_none_or(|last| {
                (last.state, last.challenge, &last.incident_id) != (status.state, status.challenge, &status.incident_id)
                    || (status.expires_at > status.updated_at && *last != status)
            });
            if is_another {
                let event = Event::default().event("attack-status").json_data(&status).ok();
                self.last = Some(status);
                return event;
            }
            match tokio::time::timeout(LOOK, self.told.changed()).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(_)) => return None,
            }
        }
    }
}
