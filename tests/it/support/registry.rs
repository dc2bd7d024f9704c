//! A real schema registry: Apicurio with its memory store, started from what `make setup` fetched.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use portcullis::log::registry::RegistryOptions;

use super::kept::{EndBy, Kept, folder};
use super::{free_ports, until};

/// It needs about 4 s on an idle machine.
const START_MAX: Duration = Duration::from_secs(120);
const ATTEMPTS_MAX: usize = 3;

/// The registry of the whole test binary; a test gives its subjects names of their own.
pub fn shared() -> RegistryOptions {
    static SHARED: OnceLock<Result<Registry, String>> = OnceLock::new();
    match SHARED.get_or_init(Registry::try_start) {
        Ok(registry) => RegistryOptions::new(&registry.url),
        Err(error) => panic!("{error}"),
    }
}

#[derive(Debug)]
struct Registry {
    url: String,
    _server: Kept,
}

impl Registry {
    fn try_start() -> Result<Registry, String> {
        let home = home()?;
        let mut last = String::new();
        for _ in 0..ATTEMPTS_MAX {
            match Registry::try_start_once(&home) {
                Ok(registry) => return Ok(registry),
                // Somebody took the port between our asking and its binding.
                Err(error) if error.contains("already in use") => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn try_start_once(home: &str) -> Result<Registry, String> {
        let [port] = free_ports();
        let jar = format!("{home}/apicurio-registry-app-{}.Final-runner.jar", version());
        let port_option = format!("-Dquarkus.http.port={port}");
        let command = ["java", "-Xmx256m", "-Dquarkus.http.host=127.0.0.1", &port_option, "-jar", &jar];
        let mut server = Kept::start(folder("portcullis-registry-"), EndBy::Kill, command);
        let url = format!("http://127.0.0.1:{port}/apis/ccompat/v7");
        let subjects = format!("{url}/subjects");
        let started = until(START_MAX, "the schema registry to start or to fail", || {
            if ureq::get(&subjects).call().is_ok() { Some(true) } else { server.has_ended().then_some(false) }
        });
        if !started {
            return Err(format!(
                "the schema registry ended while starting; the end of its log:\n{}",
                server.last_words()
            ));
        }
        Ok(Registry { url, _server: server })
    }
}

/// The folder of its jars.
fn home() -> Result<String, String> {
    let named = std::env::var("PORTCULLIS_CACHE").ok().filter(|path| !path.is_empty()).map(PathBuf::from);
    let cache =
        named.unwrap_or_else(|| PathBuf::from(std::env::var("HOME").unwrap_or_default()).join(".cache/portcullis"));
    let home = cache.join(format!("apicurio-{}", version()));
    if home.is_dir() {
        Ok(home.display().to_string())
    } else {
        Err(format!("the schema registry is not in {}: run `make setup`", home.display()))
    }
}

/// The version stands in the script that fetches it and nowhere else.
fn version() -> &'static str {
    let script = include_str!("../../../scripts/setup.sh");
    let (_, rest) = script.split_once("\nregistry_version=").expect("a version in setup.sh");
    rest.lines().next().unwrap_or_default()
}
