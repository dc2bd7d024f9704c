//! A Kafka that is killed and started again over its data, and that clients of one listener reach through a [`Proxy`].

use std::path::{Path, PathBuf};

use super::kafka::{LOG4J, START_MAX, answers, libs, server_properties, write};
use super::kept::{EndBy, Kept, folder};
use super::proxy::Proxy;
use super::{free_ports, until};

/// One broker, over several lives.
pub struct Broker {
    pub proxy: Proxy,
    folder: PathBuf,
    libs: String,
    bootstrap: String,
    server: Option<Kept>,
    /// Holds the folder, which outlives each life of the server.
    _folder: Kept,
}

impl Broker {
    /// The folder is there for as long as the broker is, and for whatever else belongs to it.
    pub fn start() -> Broker {
        let libs = libs().unwrap_or_else(|error| panic!("{error}"));
        let proxy = Proxy::start();
        let [port, controller_port, behind_proxy] = free_ports();
        let folder = folder("portcullis-chaos-");
        let holder = Kept::start(folder.clone(), EndBy::Kill, ["sleep", "1000000"]);
        let text = server_properties(port, controller_port, &folder.join("data"));
        let more = format!(
            "listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{behind_proxy},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{}
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT
group.min.session.timeout.ms=1000
transaction.abort.timed.out.transaction.cleanup.interval.ms=20000
",
            proxy.port()
        );
        write(&folder.join("server.properties"), &format!("{text}{more}"));
        write(&folder.join("log4j2.properties"), LOG4J);
        proxy.lead_to(behind_proxy);
        let mut broker =
            Broker { proxy, folder, libs, bootstrap: format!("127.0.0.1:{port}"), server: None, _folder: holder };
        let format = broker.java("-Xmx256m", "kafka.tools.StorageTool");
        let format = [format, vec!["format".to_owned(), "--cluster-id=portcullis-chaos-00000".to_owned()]].concat();
        let properties = broker.folder.join("server.properties").display().to_string();
        let done = std::process::Command::new(&format[0])
            .args(&format[1..])
            .args(["--config", &properties])
            .output()
            .expect("java starts");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
        broker.live();
        broker
    }

    fn java(&self, memory: &str, class: &str) -> Vec<String> {
        let log = format!("-Dlog4j2.configurationFile={}", self.folder.join("log4j2.properties").display());
        let path = format!("{}/*", self.libs);
        ["java", memory, &log, "-cp", &path, class].map(str::to_owned).to_vec()
    }

    /// Where the test's own clients reach it, past the proxy.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Where the job reaches it.
    pub fn proxied(&self) -> String {
        format!("127.0.0.1:{}", self.proxy.port())
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// By signal 9: what it did not write is lost, what it gave to the kernel is not.
    pub fn kill(&mut self) {
        self.keep_log();
        self.server = None;
    }

    /// Starts it over its data, and waits until it answers.
    pub fn live(&mut self) {
        let mut command = self.java("-Xmx512m", "kafka.Kafka");
        command.push(self.folder.join("server.properties").display().to_string());
        let mut server = Kept::start(folder("portcullis-kafka-"), EndBy::Kill, command);
        until(START_MAX, "Kafka to answer", || {
            assert!(!server.has_ended(), "Kafka ended; the end of its log:\n{}", server.last_words());
            answers(&self.bootstrap).then_some(())
        });
        self.server = Some(server);
    }

    /// The log of this life, behind those of the lives before.
    pub fn keep_log(&self) {
        let Some(server) = &self.server else { return };
        let log = std::fs::read(server.folder().join("out.log")).unwrap_or_default();
        let kept = std::fs::OpenOptions::new().append(true).create(true).open(self.folder.join("kafka.log"));
        drop(kept.and_then(|mut kept| std::io::Write::write_all(&mut kept, &log)));
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}
