//! A real nginx in front of a toy login page, which refuses whom a geo file names.
//!
//! It needs no privileges: a folder of its own, a free loopback port. A test chooses the client's address by the header
//! X-Forwarded-For, which nginx trusts from the loopback address.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::kept::{EndBy, Kept, folder};
use super::{free_ports, tail, until};

const START_MAX: Duration = Duration::from_secs(20);
const ANSWER_MAX: Duration = Duration::from_secs(5);
const ATTEMPTS_MAX: usize = 3;

#[derive(Debug)]
pub struct Nginx {
    server: Kept,
    port: u16,
}

impl Nginx {
    /// Starts nginx with `geo_file` as its list; a file that is not there yet is made empty, since nginx would not
    /// start without it.
    pub fn start(geo_file: &Path) -> Nginx {
        let made = OpenOptions::new().create(true).append(true).open(geo_file);
        made.unwrap_or_else(|error| panic!("{}: {error}", geo_file.display()));
        let geo = format!("geo $portcullis_block {{ default 0; include \"{}\"; }}", geo_file.display());
        let login = "location = /login { if ($portcullis_block) { return 403; } return 200 \"login\\n\"; }";
        Nginx::start_with(&geo, login)
    }

    /// Starts nginx with lines of its own in `http { }` and in `server { }`, one of which must be `/login`.
    pub fn start_with(http: &str, server: &str) -> Nginx {
        let mut last = String::new();
        for _ in 0..ATTEMPTS_MAX {
            match Nginx::try_start(http, server) {
                Ok(nginx) => return nginx,
                // Somebody took the port between our asking and nginx's binding.
                Err(error) if error.contains("Address already in use") => last = error,
                Err(error) => panic!("{error}"),
            }
        }
        panic!("{last}");
    }

    /// The folder that `nginx -p` names.
    pub fn prefix(&self) -> &Path {
        self.server.folder()
    }

    /// The file that `nginx -c` names.
    pub fn conf(&self) -> PathBuf {
        self.prefix().join("nginx.conf")
    }

    pub fn pid_file(&self) -> PathBuf {
        self.prefix().join("nginx.pid")
    }

    /// How many times it has taken a new configuration, by its own account.
    pub fn reloads(&self) -> usize {
        let log = std::fs::read_to_string(self.prefix().join("error.log")).unwrap_or_default();
        log.matches("signal 1 (SIGHUP) received").count()
    }

    /// What the login page answers to a client of this address: 200, or 403 when it is blocked.
    #[track_caller]
    pub fn status_for(&self, ip: &str) -> u16 {
        self.answer_for(ip).0
    }

    /// The same, with the whole answer.
    #[track_caller]
    pub fn answer_for(&self, ip: &str) -> (u16, String) {
        ask(self.port, ip).unwrap_or_else(|error| {
            let log = tail(&self.prefix().join("error.log"), 20);
            panic!("nginx gave no answer: {error}; the end of its log:\n{log}")
        })
    }

    fn try_start(http: &str, server: &str) -> Result<Nginx, String> {
        let [port] = free_ports();
        let folder = folder("portcullis-nginx-");
        let conf = folder.join("nginx.conf");
        std::fs::write(&conf, conf_text(&folder, http, server, port)).expect("its configuration");
        let prefix = format!("{}/", folder.display());
        let command =
            [program(), "-p", &prefix, "-c", &conf.display().to_string(), "-g", "daemon off;"].map(str::to_owned);
        let mut nginx = Nginx { server: Kept::start(folder, EndBy::Term, command), port };
        let started = until(START_MAX, "nginx", || match (ask(port, "192.0.2.1"), nginx.server.has_ended()) {
            // A stranger may listen on that port, and then our nginx has ended.
            (_, true) => Some(false),
            (Ok(_), false) if nginx.pid_file().exists() => Some(true),
            (Ok(_) | Err(_), false) => None,
        });
        if started { Ok(nginx) } else { Err(format!("nginx did not start:\n{}", nginx.server.last_words())) }
    }
}

/// Debian keeps it out of an ordinary user's PATH.
fn program() -> &'static str {
    ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/local/bin/nginx"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap_or("nginx")
}

fn conf_text(prefix: &Path, http: &str, server: &str, port: u16) -> String {
    // Started by root, workers would be of a user who may not enter a temporary folder.
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    let user = if is_root { "user root;" } else { "" };
    let prefix = prefix.display();
    format!(
        r#"{user}
worker_processes 1;
worker_shutdown_timeout 1s;
pid "{prefix}/nginx.pid";
error_log "{prefix}/error.log" notice;
events {{ worker_connections 256; }}
http {{
    access_log "{prefix}/access.log";
    client_body_temp_path "{prefix}/client_body";
    proxy_temp_path "{prefix}/proxy";
    fastcgi_temp_path "{prefix}/fastcgi";
    uwsgi_temp_path "{prefix}/uwsgi";
    scgi_temp_path "{prefix}/scgi";
    set_real_ip_from 127.0.0.1;
    real_ip_header X-Forwarded-For;
    {http}
    server {{
        listen 127.0.0.1:{port};
        {server}
    }}
}}
"#
    )
}

fn ask(port: u16, ip: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), ANSWER_MAX)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let request =
        format!("GET /login HTTP/1.1\r\nHost: login.test\r\nX-Forwarded-For: {ip}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("no HTTP answer: {answer:?}")))?;
    Ok((status, answer))
}

mod the_login_page {
    use super::*;

    #[test]
    fn refuses_whom_the_geo_file_names_after_a_reload() {
        let home = tempfile::tempdir().unwrap();
        let geo_file = home.path().join("portcullis.geo");
        let nginx = Nginx::start(&geo_file);
        assert_eq!(nginx.status_for("203.0.113.9"), 200);
        std::fs::write(&geo_file, "203.0.113.9/32 1;\n2001:db8:17:4f::/64 1;\n").unwrap();
        let reloaded = std::process::Command::new(program())
            .args(["-p", &format!("{}/", nginx.prefix().display()), "-c"])
            .arg(nginx.conf())
            .args(["-s", "reload"])
            .output()
            .unwrap();
        assert!(reloaded.status.success(), "{}", String::from_utf8_lossy(&reloaded.stderr));
        until(Duration::from_secs(10), "the block", || (nginx.status_for("203.0.113.9") == 403).then_some(()));
        // A worker with the list from before may answer as well, until it has ended.
        until(Duration::from_secs(10), "the other block", || {
            (nginx.status_for("2001:db8:17:4f::a8") == 403).then_some(())
        });
        assert_eq!(nginx.status_for("203.0.113.10"), 200);
        assert_eq!(nginx.reloads(), 1);
        assert!(nginx.pid_file().exists());
    }
}
