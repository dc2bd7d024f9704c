//! A TCP proxy between Kafka clients and a broker that understands just enough of the protocol to hurt where it is
//! worst: the two requests that end a transaction, the one that joins a group, and the one that writes. Everything else passes as it is.
//!
//! A request is its length (4 bytes), then API key and version (2 bytes each) and a correlation id (4). The broker must
//! advertise the proxy's port, or clients go around it.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The requests that are hurt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Api {
    Produce,
    EndTxn,
    TxnOffsetCommit,
    JoinGroup,
}

/// How.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hurt {
    /// It waits so long on its way.
    Delay(Duration),
    /// It waits until [`Proxy::let_go`].
    Hold,
    /// The connection is cut, and the broker never hears of it.
    CutBefore,
    /// The broker gets it, and the connection is cut before its answer.
    CutAfter,
    /// The connection is cut, and the broker gets it so long after: perhaps in the middle of the next transaction.
    Late(Duration),
}

#[derive(Debug, Default)]
struct Plan {
    armed: VecDeque<(Api, Hurt)>,
    fired: BTreeMap<Api, u64>,
    let_go: u64,
}

#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: Mutex<Option<SocketAddr>>,
    plan: Mutex<Plan>,
    gone_on: Condvar,
    ended: AtomicBool,
}

/// No request is longer; what claims to be is no request.
const REQUEST_BYTES_MAX: usize = 100 << 20;
/// How long a connection whose client is gone is kept for the broker's sake.
const LINGER: Duration = Duration::from_secs(5);

impl Proxy {
    pub fn start() -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream: Mutex::default(),
            plan: Mutex::default(),
            gone_on: Condvar::new(),
            ended: AtomicBool::new(false),
        });
        let of = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if of.ended.load(Ordering::Relaxed) {
                    break;
                }
                let of = Arc::clone(&of);
                thread::spawn(move || drop(of.serve(client)));
            }
        });
        Proxy { address, shared }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Where requests go from now on.
    pub fn lead_to(&self, port: u16) {
        *self.shared.upstream.lock().unwrap() = Some(SocketAddr::from(([127, 0, 0, 1], port)));
    }

    /// The next request of this kind is hurt so.
    pub fn arm(&self, api: Api, hurt: Hurt) {
        self.shared.plan.lock().unwrap().armed.push_back((api, hurt));
    }

    /// Takes back what has not happened yet.
    pub fn disarm(&self) {
        self.shared.plan.lock().unwrap().armed.clear();
    }

    /// What is held goes on.
    pub fn let_go(&self) {
        self.shared.plan.lock().unwrap().let_go += 1;
        self.shared.gone_on.notify_all();
    }

    /// How many requests were hurt.
    pub fn fired(&self) -> u64 {
        self.shared.plan.lock().unwrap().fired.values().sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes the listener, so that it sees that it has ended.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn take(&self, api: Api) -> Option<Hurt> {
        let mut plan = self.plan.lock().unwrap();
        let at = plan.armed.iter().position(|(armed, _)| *armed == api)?;
        *plan.fired.entry(api).or_default() += 1;
        plan.armed.remove(at).map(|(_, hurt)| hurt)
    }

    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        let upstream = *self.upstream.lock().unwrap();
        let upstream = upstream.ok_or(std::io::ErrorKind::NotConnected)?;
        let mut broker = TcpStream::connect_timeout(&upstream, Duration::from_secs(1))?;
        client.set_nodelay(true)?;
        broker.set_nodelay(true)?;
        let (mut answers, mut to_client) = (broker.try_clone()?, client.try_clone()?);
        thread::spawn(move || {
            drop(std::io::copy(&mut answers, &mut to_client));
            drop(to_client.shutdown(Shutdown::Both));
        });
        let ended = self.requests(&mut client, &mut broker);
        drop(client.shutdown(Shutdown::Both));
        drop(broker.shutdown(Shutdown::Both));
        ended
    }

    fn requests(&self, client: &mut TcpStream, broker: &mut TcpStream) -> std::io::Result<()> {
        loop {
            let mut request = vec![0; 4];
            client.read_exact(&mut request)?;
            let length = u32::from_be_bytes([request[0], request[1], request[2], request[3]]) as usize;
            if length > REQUEST_BYTES_MAX {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
            request.resize(4 + length, 0);
            client.read_exact(&mut request[4..])?;
            match api(&request).and_then(|api| self.take(api)) {
                None => broker.write_all(&request)?,
                Some(Hurt::Delay(delay)) => {
                    wait(delay);
                    broker.write_all(&request)?;
                }
                Some(Hurt::Hold) => {
                    let plan = self.plan.lock().unwrap();
                    let before = plan.let_go;
                    drop(self.gone_on.wait_while(plan, |plan| plan.let_go == before).unwrap());
                    broker.write_all(&request)?;
                }
                Some(Hurt::CutBefore) => return Ok(()),
                Some(Hurt::CutAfter) => {
                    client.shutdown(Shutdown::Both)?;
                    broker.write_all(&request)?;
                    wait(LINGER);
                    return Ok(());
                }
                Some(Hurt::Late(delay)) => {
                    client.shutdown(Shutdown::Both)?;
                    wait(delay);
                    broker.write_all(&request)?;
                    wait(LINGER);
                    return Ok(());
                }
            }
        }
    }
}

fn api(request: &[u8]) -> Option<Api> {
    match u16::from_be_bytes([*request.get(4)?, *request.get(5)?]) {
        0 => Some(Api::Produce),
        11 => Some(Api::JoinGroup),
        26 => Some(Api::EndTxn),
        28 => Some(Api::TxnOffsetCommit),
        _ => None,
    }
}

/// The delay is the fault itself, and no wait for a condition.
fn wait(delay: Duration) {
    let end = Instant::now() + delay;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        thread::park_timeout(left);
    }
}

mod the_proxy {
    use super::*;

    /// A broker that answers every request with its own bytes.
    fn echo() -> (u16, Arc<Mutex<Vec<Vec<u8>>>>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let of = Arc::clone(&heard);
        thread::spawn(move || {
            for mut client in listener.incoming().map_while(Result::ok) {
                let of = Arc::clone(&of);
                thread::spawn(move || {
                    let mut request = [0; 12];
                    while client.read_exact(&mut request).is_ok() {
                        of.lock().unwrap().push(request.to_vec());
                        drop(client.write_all(&request));
                    }
                });
            }
        });
        (port, heard)
    }

    fn request(api: u8) -> [u8; 12] {
        [0, 0, 0, 8, 0, api, 0, 1, 0, 0, 0, api]
    }

    /// Sends a request and gives its answer; `None` when the connection is cut.
    fn ask(stream: &mut TcpStream, api: u8) -> Option<Vec<u8>> {
        stream.write_all(&request(api)).ok()?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).ok().map(|()| answer.to_vec())
    }

    #[test]
    fn hurts_only_what_is_armed_and_each_once() {
        let (port, heard) = echo();
        let proxy = Proxy::start();
        proxy.lead_to(port);
        let connect = || TcpStream::connect(proxy.address).unwrap();
        let mut stream = connect();
        assert!([0, 26, 28].iter().all(|api| ask(&mut stream, *api).is_some()));
        proxy.arm(Api::EndTxn, Hurt::CutBefore);
        assert!(ask(&mut stream, 28).is_some());
        assert_eq!(ask(&mut stream, 26), None);
        assert_eq!(heard.lock().unwrap().len(), 4, "the broker never heard of it");
        proxy.arm(Api::TxnOffsetCommit, Hurt::CutAfter);
        assert_eq!(ask(&mut connect(), 28), None);
        proxy.arm(Api::EndTxn, Hurt::Late(Duration::from_millis(20)));
        assert_eq!(ask(&mut connect(), 26), None);
        crate::support::until(Duration::from_secs(10), "both to arrive", || {
            (heard.lock().unwrap().len() == 6).then_some(())
        });
        proxy.arm(Api::EndTxn, Hurt::Delay(Duration::from_millis(20)));
        let mut stream = connect();
        assert!(ask(&mut stream, 26).is_some() && ask(&mut stream, 26).is_some());
        assert_eq!(proxy.fired(), 4);
    }
}
