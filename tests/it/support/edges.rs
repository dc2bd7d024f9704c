//! Real edges that sinks push to: HAProxy, Redis, and the firewall of a kernel in a namespace of its own. None of them
//! needs privileges or a port of this machine.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::kept::{EndBy, Kept, folder};
use super::{tail, until};

const START_MAX: Duration = Duration::from_secs(20);
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Debian keeps servers out of an ordinary user's PATH.
fn program(name: &str) -> String {
    let places = ["/usr/sbin", "/usr/local/sbin", "/sbin", "/usr/bin"].map(|place| format!("{place}/{name}"));
    places.into_iter().find(|path| Path::new(path).exists()).unwrap_or_else(|| name.to_owned())
}

/// A toy login page behind a HAProxy, which refuses whom its map names. A test chooses the client's address by the
/// header X-Forwarded-For.
#[derive(Debug)]
pub struct Haproxy {
    server: Kept,
}

impl Haproxy {
    pub fn start() -> Haproxy {
        let folder = folder("portcullis-haproxy-");
        let at = folder.display();
        let conf = format!(
            "global\n  stats socket {at}/admin.sock mode 600 level admin expose-fd listeners\n  maxconn 200\n\
             defaults\n  mode http\n  timeout connect 1s\n  timeout client 5s\n  timeout server 5s\n\
             frontend login\n  bind unix@{at}/http.sock\n\
             \x20 http-request deny deny_status 403 if {{ hdr_ip(x-forwarded-for),map_ip({at}/portcullis.map) -m found }}\n\
             \x20 http-request return status 200 content-type text/plain string login\n"
        );
        std::fs::write(folder.join("haproxy.cfg"), conf).expect("its configuration");
        std::fs::write(folder.join("portcullis.map"), "").expect("its map");
        let [pid, conf] = ["haproxy.pid", "haproxy.cfg"].map(|name| folder.join(name).display().to_string());
        let command = [program("haproxy").as_str(), "-W", "-db", "-p", &pid, "-f", &conf].map(str::to_owned);
        let mut haproxy = Haproxy { server: Kept::start(folder, EndBy::Term, command) };
        until(START_MAX, "haproxy", || {
            assert!(!haproxy.server.has_ended(), "haproxy did not start:\n{}", haproxy.server.last_words());
            haproxy.ask("192.0.2.1").ok()
        });
        haproxy
    }

    pub fn socket(&self) -> String {
        self.server.folder().join("admin.sock").display().to_string()
    }

    pub fn map(&self) -> String {
        self.server.folder().join("portcullis.map").display().to_string()
    }

    /// What the login page answers to a client of this address: 200, or 403 when it is blocked.
    #[track_caller]
    pub fn status_for(&self, ip: &str) -> u16 {
        let answer = self.ask(ip);
        answer.unwrap_or_else(|error| panic!("haproxy gave no answer: {error}\n{}", self.server.last_words()))
    }

    /// One command on its stats socket.
    pub fn command(&self, command: &str) -> String {
        exchange(&self.server.folder().join("admin.sock"), &format!("{command}\n")).expect("an answer")
    }

    /// Has it start anew, as after a change of its configuration: what its memory held is gone.
    pub fn reload(&self) {
        let worker = |text: String| text.lines().find_map(|line| line.strip_prefix("Pid: ").map(str::to_owned));
        let before = worker(self.command("show info"));
        let master = std::fs::read_to_string(self.server.folder().join("haproxy.pid")).expect("its process");
        let master = master.lines().next().expect("a line").to_owned();
        assert!(Command::new("kill").args(["-USR2", &master]).status().expect("kill").success());
        until(START_MAX, "the new worker", || {
            let text = exchange(&self.server.folder().join("admin.sock"), "show info\n").ok()?;
            worker(text).filter(|worker| Some(worker) != before.as_ref())
        });
    }

    fn ask(&self, ip: &str) -> std::io::Result<u16> {
        let request = format!("GET /login HTTP/1.0\r\nHost: x\r\nX-Forwarded-For: {ip}\r\n\r\n");
        let answer = exchange(&self.server.folder().join("http.sock"), &request)?;
        let status = answer.get(9..12).and_then(|code| code.parse().ok());
        status.ok_or_else(|| std::io::Error::other(answer))
    }
}

fn exchange(socket: &Path, request: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A Redis that keeps nothing on disk.
#[derive(Debug)]
pub struct Redis {
    server: Kept,
}

impl Redis {
    pub fn start() -> Redis {
        let folder = folder("portcullis-redis-");
        let socket = folder.join("redis.sock").display().to_string();
        let at = folder.display().to_string();
        let command = [
            program("redis-server").as_str(),
            "--port",
            "0",
            "--unixsocket",
            &socket,
            "--save",
            "",
            "--dir",
            &at,
            "--requirepass",
            "a password of tests",
        ]
        .map(str::to_owned);
        let mut redis = Redis { server: Kept::start(folder, EndBy::Term, command) };
        until(START_MAX, "redis", || {
            assert!(!redis.server.has_ended(), "redis did not start:\n{}", redis.server.last_words());
            (redis.command(&["PING"]) == "PONG").then_some(())
        });
        std::fs::write(redis.password_file(), "a password of tests\n").expect("its password");
        redis
    }

    pub fn socket(&self) -> String {
        self.server.folder().join("redis.sock").display().to_string()
    }

    pub fn password_file(&self) -> PathBuf {
        self.server.folder().join("password")
    }

    /// What its own client is told.
    pub fn command(&self, words: &[&str]) -> String {
        let mut command = Command::new(program("redis-cli"));
        command.args(["-s", &self.socket(), "--no-auth-warning", "-a", "a password of tests"]).args(words);
        let output = command.output().expect("redis-cli");
        String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned()
    }

    /// A listener to one channel; its lines go to a file.
    pub fn listen(&self, channel: &str) -> (Kept, PathBuf) {
        let folder = folder("portcullis-channel-");
        let heard = folder.join("out.log");
        let socket = self.socket();
        let command = [
            program("redis-cli").as_str(),
            "-s",
            &socket,
            "--no-auth-warning",
            "-a",
            "a password of tests",
            "SUBSCRIBE",
            channel,
        ]
        .map(str::to_owned);
        let listener = Kept::start(folder, EndBy::Kill, command);
        until(START_MAX, "the channel", || {
            std::fs::read_to_string(&heard).is_ok_and(|text| text.contains("subscribe")).then_some(())
        });
        (listener, heard)
    }
}

/// A user and a network namespace with a login page in it and addresses for its clients.
#[derive(Debug)]
pub struct Host {
    server: Kept,
    pid: String,
}

/// Where the login page listens.
const SERVERS: [(&str, &str); 2] = [("192.0.2.1", "192.0.2.1"), ("2001:db8:ffff::1", "[2001:db8:ffff::1]")];

impl Host {
    /// Starts it with these addresses as its clients'.
    pub fn start(clients: &[&str]) -> Host {
        let folder = folder("portcullis-host-");
        let at = folder.display();
        let conf = "global\n  maxconn 200\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client 5s\n  timeout server 5s\n\
             frontend login\n  bind 192.0.2.1:80\n  bind 2001:db8:ffff::1:80\n\
             \x20 http-request return status 200 content-type text/plain string login\n";
        std::fs::write(folder.join("haproxy.cfg"), conf).expect("its configuration");
        let addresses = clients.iter().copied().chain(SERVERS.map(|(address, _)| address));
        let ip = program("ip");
        let add: String = addresses.map(|address| format!("{ip} addr add {address} dev lo\n")).collect();
        let haproxy = program("haproxy");
        let script =
            format!("set -e\n{ip} link set lo up\n{add}echo $$ >{at}/pid\nexec {haproxy} -db -f {at}/haproxy.cfg\n");
        let command = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", &script].map(str::to_owned);
        let pid_file = folder.join("pid");
        let mut server = Kept::start(folder, EndBy::Term, command);
        let pid = until(START_MAX, "a namespace", || {
            assert!(!server.has_ended(), "no namespace:\n{}", server.last_words());
            std::fs::read_to_string(&pid_file).ok()?.strip_suffix('\n').map(str::to_owned)
        });
        let host = Host { server, pid };
        until(START_MAX, "the login page", || host.lets_in(None, 0).then_some(()));
        host
    }

    /// A command inside of it, before its arguments.
    pub fn inside(&self, name: &str) -> Vec<String> {
        let nsenter = ["nsenter", "--target", &self.pid, "--user", "--preserve-credentials", "--net"];
        nsenter.into_iter().map(str::to_owned).chain([program(name)]).collect()
    }

    /// Runs a command inside of it and gives what it says.
    #[track_caller]
    pub fn run(&self, name: &str, arguments: &[&str]) -> String {
        let words = self.inside(name);
        let output = Command::new(&words[0]).args(&words[1..]).args(arguments).output().expect("nsenter");
        assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Whether a connection from this address gets an answer.
    pub fn answers(&self, client: &str) -> bool {
        self.lets_in(Some(client), usize::from(client.contains(':')))
    }

    fn lets_in(&self, client: Option<&str>, server: usize) -> bool {
        let words = self.inside("curl");
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["--silent", "--noproxy", "*", "--max-time", "1", "--globoff"]);
        if let Some(client) = client {
            command.args(["--interface", client]);
        }
        let output = command.arg(format!("http://{}/", SERVERS[server].1)).output().expect("curl");
        output.stdout == b"login"
    }

    /// The end of what its server said.
    pub fn last_words(&self) -> String {
        tail(&self.server.folder().join("out.log"), 20)
    }
}
