//! A real Keycloak with its database in memory, started from what `make setup` fetched, as nobody where the tests are root.

use std::io::BufRead;
use std::path::PathBuf;
use std::time::Duration;

use super::edge::ask;
use super::kept::{EndBy, Kept, folder};
use super::{free_ports, until};

/// It needs a quarter of a minute on an idle machine, and over a minute beside compilers.
const START_MAX: Duration = Duration::from_secs(300);
pub const ADMIN: (&str, &str) = ("admin", "admin-password");

#[derive(Debug)]
pub struct Keycloak {
    port: u16,
    server: Kept,
}

impl Keycloak {
    pub fn start() -> Keycloak {
        let home = home().unwrap_or_else(|error| panic!("{error}"));
        let [port] = free_ports();
        let folder = folder("portcullis-keycloak-");
        // It writes below its own folder, so it gets one.
        let script = r#"
home=$1 folder=$2 port=$3
cp -r "$home" "$folder/keycloak" || exit 1
export KC_BOOTSTRAP_ADMIN_USERNAME=$4 KC_BOOTSTRAP_ADMIN_PASSWORD=$5
export JAVA_OPTS_APPEND="-Xmx400m -XX:TieredStopAtLevel=1"
as_nobody=
if [ "$(id -u)" = 0 ]; then
    chmod 755 "$folder" && chown -R nobody "$folder/keycloak"
    as_nobody="setpriv --reuid=nobody --regid=nogroup --clear-groups"
fi
cd "$folder/keycloak"
exec $as_nobody bin/kc.sh start --optimized --cache=local --http-enabled=true --hostname-strict=false \
    --http-host=127.0.0.1 "--http-port=$port" --proxy-headers=xforwarded --log-console-output=json \
    --spi-events-listener-jboss-logging-success-level=info '--spi-events-listener-jboss-logging-quotes="'
"#;
        let (path, port_text) = (folder.display().to_string(), port.to_string());
        let command = ["sh", "-c", script, "keycloak", &home, &path, &port_text, ADMIN.0, ADMIN.1];
        let mut server = Kept::start(folder, EndBy::Kill, command);
        until(START_MAX, "Keycloak to start", || {
            assert!(!server.has_ended(), "Keycloak ended while starting; the end of its log:\n{}", server.last_words());
            (super::http(port, "/realms/master").0 == 200).then_some(())
        });
        Keycloak { port, server }
    }

    /// Logs in from an address, as its proxy says; the status of the answer.
    pub fn log_in(&self, name: &str, password: &str, address: &str) -> u16 {
        let encoded: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let form = format!("client_id=admin-cli&grant_type=password&username={encoded}&password={password}");
        let headers = [
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-For", address),
        ];
        let at = format!("127.0.0.1:{}", self.port).parse().unwrap();
        ask(at, "POST", "/realms/master/protocol/openid-connect/token", &headers, &form).unwrap().status
    }

    /// The lines of its log that are JSON, as a shipper of logs reads them.
    pub fn log(&self) -> Vec<String> {
        let file = std::fs::File::open(self.server.folder().join("out.log")).unwrap();
        let lines = std::io::BufReader::new(file).lines().map_while(Result::ok);
        lines.filter(|line| line.starts_with('{') && line.ends_with('}')).collect()
    }
}

/// The folder that it was fetched into.
fn home() -> Result<String, String> {
    let named = std::env::var("PORTCULLIS_CACHE").ok().filter(|path| !path.is_empty()).map(PathBuf::from);
    let cache =
        named.unwrap_or_else(|| PathBuf::from(std::env::var("HOME").unwrap_or_default()).join(".cache/portcullis"));
    let home = cache.join(format!("keycloak-{}", version()));
    if home.is_dir() {
        Ok(home.display().to_string())
    } else {
        Err(format!("Keycloak is not in {}: run `make setup`", home.display()))
    }
}

/// The version stands in the script that fetches it and nowhere else.
fn version() -> &'static str {
    let script = include_str!("../../../scripts/setup.sh");
    let (_, rest) = script.split_once("\nkeycloak_version=").expect("a version in setup.sh");
    rest.lines().next().unwrap_or_default()
}
