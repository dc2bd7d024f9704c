//! Connections, and what each may take: a client that is slow, silent or many costs a place for a while and no more.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt as _;

use super::tls::Tls;
use crate::edge::server::VerifiedClient;

/// Most connections at a time; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 2_000;
/// How long a client may take for the head of a request, and may rest between two requests. Proxies keep connections for a
/// minute.
const HEADER_WAIT_MAX: Duration = Duration::from_secs(75);
/// How long a connection may last: whoever has no end of requests connects anew, and whoever never reads its answers
/// is cut off.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(600);
/// How long requests that are under way may take at the end of a connection's time, or at a stop.
const END_WAIT_MAX: Duration = Duration::from_secs(30);
/// Largest head of a request, and largest piece of a body that is read at once, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long nothing is accepted after that failed, as when there are no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What connections may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bounds {
    connections: usize,
    header_wait: Duration,
    age: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { connections: CONNECTIONS_MAX, header_wait: HEADER_WAIT_MAX, age: CONNECTION_AGE_MAX }
    }
}

/// Whom to answer, and how.
struct Served {
    bounds: Bounds,
    routes: Router,
    tls: Option<Tls>,
}

/// Answers by `routes` until `stopped`; then takes no connection more, and waits for the answers that are under way.
///
/// # Errors
/// None now: what fails is one connection.
pub(super) async fn serve(
    listener: TcpListener,
    routes: Router,
    tls: Option<Tls>,
    stopped: impl Future<Output = ()>,
) -> io::Result<()> {
    serve_within(Served { bounds: Bounds::default(), routes, tls }, listener, stopped).await;
    Ok(())
}

async fn serve_within(served: Served, listener: TcpListener, stopped: impl Future<Output = ()>) {
    let bounds = served.bounds;
    let served = Arc::new(served);
    let places = Arc::new(Semaphore::new(bounds.connections));
    let (stop, _) = watch::channel(());
    let mut stopped = pin!(stopped);
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, stream) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut stopped => break,
        };
        match (place, stream) {
            (Ok(place), Ok((stream, peer))) => {
                let (served, stop) = (Arc::clone(&served), stop.subscribe());
                tokio::spawn(async move {
                    taken(&served, stream, peer, stop).await;
                    drop(place);
                });
            }
            (_, Err(error)) => {
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            (Err(_), Ok(_)) => break,
        }
    }
    drop(listener);
    stop.send_replace(());
    let all = u32::try_from(bounds.connections).unwrap_or(u32::MAX);
    if tokio::time::timeout(END_WAIT_MAX, places.acquire_many(all)).await.is_err() {
        tracing::warn!("some answers were still under way at the stop");
    }
}

/// A connection from its beginning.
async fn taken(served: &Served, stream: TcpStream, peer: SocketAddr, stop: watch::Receiver<()>) {
    // An answer is one small write; without it, it is only sent a little later.
    drop(stream.set_nodelay(true));
    match &served.tls {
        None => connection(served, stream, (peer, None), stop).await,
        Some(tls) => match tls.accept(stream).await {
            Ok((stream, client)) => connection(served, stream, (peer, client), stop).await,
            // Scanners and clients of another mind come all the time.
            Err(error) => tracing::debug!(%peer, error = format!("{error:#}"), "no TLS with a client"),
        },
    }
}

async fn connection(
    served: &Served,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    (peer, client): (SocketAddr, Option<VerifiedClient>),
    mut stop: watch::Receiver<()>,
) {
    let Served { bounds, routes, .. } = served;
    let named = routes.clone().map_request(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        if let Some(client) = &client {
            request.extensions_mut().insert(client.clone());
        }
        request.map(axum::body::Body::new)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(bounds.header_wait).max_buf_size(HEAD_BYTES_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(named)));
    tokio::select! {
        ended = &mut connection => {
            // Clients hang up as they like.
            drop(ended);
            return;
        }
        _ = stop.changed() => {}
        () = tokio::time::sleep(bounds.age) => {}
    }
    connection.as_mut().graceful_shutdown();
    drop(tokio::time::timeout(END_WAIT_MAX, connection).await);
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use axum::routing::get;
    use tokio::sync::oneshot;

    use super::*;

    /// A server with these bounds, its address, and what stops it.
    fn served(bounds: Bounds) -> (std::net::SocketAddr, oneshot::Sender<()>, std::thread::JoinHandle<()>) {
        let (stop, stopped) = oneshot::channel::<()>();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                let routes = Router::new().route("/", get(|| async { "here" }));
                let served = Served { bounds, routes, tls: None };
                serve_within(served, listener, async { drop(stopped.await) }).await;
            });
        });
        (address, stop, thread)
    }

    fn connect(address: std::net::SocketAddr) -> std::net::TcpStream {
        let stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// What comes until the server ends the connection.
    fn rest(stream: &mut std::net::TcpStream) -> String {
        let mut text = String::new();
        // A reset is an end as well.
        drop(stream.read_to_string(&mut text));
        text
    }

    #[test]
    fn who_is_silent_slow_or_rests_for_long_loses_the_place() {
        let bounds = Bounds { connections: 1, header_wait: Duration::from_millis(100), age: Duration::from_secs(60) };
        let (address, stop, thread) = served(bounds);
        for begun in ["", "GET / HTTP/1.1\r\nHost", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
            let mut stream = connect(address);
            stream.write_all(begun.as_bytes()).unwrap();
            let seen = rest(&mut stream);
            assert_eq!(seen.contains("here"), begun.ends_with("\r\n\r\n"), "{begun}: {seen}");
        }
        drop(stop);
        thread.join().unwrap();
    }

    #[test]
    fn a_connection_that_has_lasted_long_enough_ends_after_its_answer() {
        let bounds = Bounds { connections: 1, header_wait: Duration::from_secs(60), age: Duration::from_millis(300) };
        let (address, stop, thread) = served(bounds);
        let mut stream = connect(address);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert!(rest(&mut stream).contains("here"));
        drop(stop);
        thread.join().unwrap();
    }

    #[test]
    fn a_stop_ends_connections_that_rest() {
        let (address, stop, thread) = served(Bounds::default());
        let mut stream = connect(address);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut first = [0; 15];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");
        drop(stop);
        thread.join().unwrap();
        rest(&mut stream);
    }

    #[test]
    fn a_head_without_end_is_refused() {
        let (address, stop, thread) = served(Bounds::default());
        let mut stream = connect(address);
        let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(2 * HEAD_BYTES_MAX));
        drop(stream.write_all(head.as_bytes()));
        assert!(!rest(&mut stream).contains("here"));
        drop(stop);
        thread.join().unwrap();
    }
}
