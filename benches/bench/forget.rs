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

/// Delete every topic of earlier runs: all but login-events and those whose name starts with `peer-` or `_`
#[derive(Debug, Args)]
pub(crate) struct Forget {
    #[arg(long)]
    bootstrap: String,
}

impl Forget {
    pub(crate) fn run(&self) -> Result<()> {
        let consumer = consumer(&self.bootstrap, "portcullis-bench-forget", &[])?;
        let ours = || -> Result<BTreeSet<String>> {
            let metadata = consumer.fetch_metadata(None, ANSWER_MAX)?;
            let names = metadata.topics().iter().map(|topic| topic.name().to_owned());
            Ok(names
                .filter(|name| name != "login-events" && !name.starts_with("peer-") && !name.starts_with('_'))
                .collect())
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
}
