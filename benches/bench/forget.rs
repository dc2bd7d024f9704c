//! Clears a cluster for the next run.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::Consumer as _;

use crate::Result;
use crate::kafka::{ANSWER_MAX, consumer};
use crate::process::pause;

/// Delete every topic of earlier runs: all but login-events, under any prefix, and those whose name starts with `peer-` or `_`
#[derive(Debug, Args)]
pub(crate) struct Forget {
    #[arg(long)]
    bootstrap: String,
    /// Those of the peers as well
    #[arg(long)]
    peers_too: bool,
    /// A topic of login events that is not needed any more either
    #[arg(long)]
    input_too: Option<String>,
}

impl Forget {
    pub(crate) fn run(&self) -> Result<()> {
        let consumer = consumer(&self.bootstrap, "portcullis-bench-forget", &[])?;
        let ours = || -> Result<BTreeSet<String>> {
            let metadata = consumer.fetch_metadata(None, ANSWER_MAX)?;
            let names = metadata.topics().iter().map(|topic| topic.name().to_owned());
            Ok(names.filter(|name| self.is_wanted(name)).collect())
        };
        let names = ours()?;
        if names.is_empty() {
            return Ok(());
        }
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.bootstrap).create()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for done in runtime.block_on(admin.delete_topics(&names, &AdminOptions::new()))? {
            done.map_err(|(topic, code)| format!("{topic}: {code}"))?;
        }
        while !ours()?.is_empty() {
            pause(Duration::from_millis(100));
        }
        Ok(())
    }
    fn is_wanted(&self, topic: &str) -> bool {
        if topic.starts_with("peer-") {
            return self.peers_too;
        }
        let is_input = topic.ends_with("login-events") && self.input_too.as_deref() != Some(topic);
        !topic.starts_with('_') && !is_input
    }
}

/// Print the names of all topics that start with a text
#[derive(Debug, Args)]
pub(crate) struct Topics {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    prefix: String,
}

impl Topics {
    #[expect(clippy::print_stdout, reason = "its answer")]
    pub(crate) fn run(&self) -> Result<()> {
        let consumer = consumer(&self.bootstrap, "portcullis-bench-topics", &[])?;
        for topic in consumer.fetch_metadata(None, ANSWER_MAX)?.topics() {
            if topic.name().starts_with(&self.prefix) {
                println!("{}", topic.name());
            }
        }
        Ok(())
    }
}
