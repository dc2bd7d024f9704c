//! `portcullis lookup`: what the files of networks say of an address, an autonomous system or a country.

use std::io::Write;

use anyhow::{Result, anyhow};
use clap::Args;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::networks::{NetworkFiles, as_json};
use super::settings::Settings;
use super::{Ending, Output};
use crate::console::text::Plain;
use crate::edge::EXPANSION_MAX;
use crate::event::Source;
use crate::event::wire::format_millis;
use crate::topology::networks::{Facts, Group, Networks};

/// Most prefixes that are shown as text.
const PREFIXES_SHOWN_MAX: usize = 20;

/// Say what is known of an address, or which addresses an autonomous system or a country has
///
/// Looks into the files that `run`, `sink` and `edge` look into: `mmdb`, `hosting_lists` and `proxy_lists` of the settings,
/// and the list of hosting providers of the topology folder. Asks no cluster.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portcullis lookup 203.0.113.9 --mmdb asn.mmdb --mmdb country.mmdb\n  portcullis lookup AS64500 --mmdb asn.mmdb --output json\n  portcullis lookup NL --mmdb country.mmdb"
)]
pub struct LookupArgs {
    /// An address, an autonomous system (AS64500) or a country (two letters)
    #[arg(value_name = "ADDRESS|ASN|COUNTRY", required = true)]
    pub what: Vec<String>,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// Answers.
///
/// # Errors
/// A file is bad, or what is asked is none of these.
pub fn run(args: &LookupArgs, settings: &Settings, out: &mut dyn Write) -> Result<Ending> {
    let files = NetworkFiles::read(settings)?;
    let networks = files.networks()?;
    for what in &args.what {
        let (value, text) = match asked(what)? {
            Asked::Source(source) => of_source(what, source, &networks),
            Asked::Asn(asn) => of_group(what, Group::Asn(asn), &networks),
            Asked::Country(code) => of_group(what, Group::Country(&code), &networks),
        };
        args.output.write(out, &value, &text)?;
    }
    if args.output == Output::Text {
        for (path, database) in files.databases() {
            let made = i64::try_from(database.built_at).unwrap_or(i64::MAX).saturating_mul(1_000);
            writeln!(out, "by {} ({}, made {})", path.display(), Plain::name(&database.kind), format_millis(made))?;
        }
        if files.databases().next().is_none() {
            writeln!(out, "no MMDB file is given: set `mmdb` in the settings, or --mmdb FILE")?;
        }
    }
    Ok(Ending::Well)
}

enum Asked {
    Source(Source),
    Asn(u32),
    Country(String),
}

fn asked(text: &str) -> Result<Asked> {
    let text = text.trim();
    if let Ok(source) = text.parse::<Source>() {
        return Ok(Asked::Source(source));
    }
    if text.len() == 2 && text.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Ok(Asked::Country(text.to_ascii_uppercase()));
    }
    let number = text.strip_prefix("AS").or_else(|| text.strip_prefix("as")).unwrap_or(text);
    let asn = number.parse().ok().filter(|asn| *asn > 0).map(Asked::Asn);
    asn.ok_or_else(|| anyhow!("{text:?} is no address, no autonomous system (AS64500) and no country (two letters)"))
}

fn of_source(asked: &str, source: Source, networks: &Networks) -> (Value, String) {
    let found = networks.look_up(source);
    let facts = found.clone().unwrap_or_default();
    let value =
        json!({"asked": asked, "source": source.to_string(), "found": found.is_some(), "network": as_json(&facts)});
    let text = if found.is_some() { words(&facts) } else { "nothing is known".to_owned() };
    (value, format!("{source}: {text}"))
}

fn words(facts: &Facts) -> String {
    let mut parts = Vec::new();
    if let Some(asn) = facts.asn {
        let name = facts.organisation.as_deref().map(|name| format!(" {}", Plain::name(name)));
        parts.push(format!("AS{asn}{}", name.unwrap_or_default()));
    }
    parts.extend(facts.country.as_deref().map(str::to_owned));
    parts.extend(facts.hosting.then(|| "hosting".to_owned()));
    parts.extend(facts.proxy.then(|| "proxy".to_owned()));
    if parts.is_empty() { "nothing of use is known".to_owned() } else { parts.join(", ") }
}

fn of_group(asked: &str, group: Group<'_>, networks: &Networks) -> (Value, String) {
    let Some(prefixes) = networks.prefixes(group, EXPANSION_MAX) else {
        let why = format!("over {EXPANSION_MAX} prefixes: more than an edge is given of one entry");
        return (json!({"asked": asked, "prefixes": null, "problem": why}), format!("{asked}: {why}"));
    };
    let names: Vec<String> = prefixes.iter().map(IpNet::to_string).collect();
    let mut text = format!("{asked}: {} prefixes", names.len());
    for name in names.iter().take(PREFIXES_SHOWN_MAX) {
        text.push_str("\n  ");
        text.push_str(name);
    }
    if names.len() > PREFIXES_SHOWN_MAX {
        text.push_str("\n  … (all of them: --output json)");
    }
    (json!({"asked": asked, "prefixes": names}), text)
}
