//! Reads the folder `topology/`, or the one bundled with the program, and compiles it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};

use super::settings::Settings;
use crate::engine::{Env, Limits};
use crate::topology::{Exemptions, PLAYBOOKS_MAX, Plan, Playbook, Topics, check};

const TOPICS: &str = include_str!("../../topology/topics.yaml");
const EXEMPTIONS: &str = include_str!("../../topology/exemptions.yaml");
const PLAYBOOKS: &[(&str, &str)] = &[
    ("account-compromised.yaml", include_str!("../../topology/playbooks/account-compromised.yaml")),
    ("account-distributed-guessing.yaml", include_str!("../../topology/playbooks/account-distributed-guessing.yaml")),
    ("account-reset-flood.yaml", include_str!("../../topology/playbooks/account-reset-flood.yaml")),
    ("canary-name.yaml", include_str!("../../topology/playbooks/canary-name.yaml")),
    ("ip-account-fanout.yaml", include_str!("../../topology/playbooks/ip-account-fanout.yaml")),
    ("ip-enumeration.yaml", include_str!("../../topology/playbooks/ip-enumeration.yaml")),
    ("ip-failure-rate.yaml", include_str!("../../topology/playbooks/ip-failure-rate.yaml")),
    ("network-rollup.yaml", include_str!("../../topology/playbooks/network-rollup.yaml")),
    ("proxy-address.yaml", include_str!("../../topology/playbooks/proxy-address.yaml")),
    ("site-campaign.yaml", include_str!("../../topology/playbooks/site-campaign.yaml")),
    ("slow-source.yaml", include_str!("../../topology/playbooks/slow-source.yaml")),
    ("source-posterior.yaml", include_str!("../../topology/playbooks/source-posterior.yaml")),
    ("spray-common-password.yaml", include_str!("../../topology/playbooks/spray-common-password.yaml")),
    ("tripwire.yaml", include_str!("../../topology/playbooks/tripwire.yaml")),
];

/// The topics of an installation.
///
/// # Errors
/// The file does not read or contradicts itself.
pub fn topics(settings: &Settings) -> Result<Topics> {
    let (name, text) = file(settings, "topics.yaml", TOPICS)?;
    Topics::parse(&text, &settings.application_id, &settings.topic_prefix, None)
        .map_err(|what| anyhow!("{name}: {what}"))
}

/// Those who are never restricted, by the file.
///
/// # Errors
/// The file does not read, with line and remedy.
pub fn exemptions(settings: &Settings) -> Result<Exemptions> {
    let (name, text) = file(settings, "exemptions.yaml", EXEMPTIONS)?;
    Exemptions::parse(&text).map_err(|what| anyhow!("{name}: {what}"))
}

/// The playbooks of a folder, or the bundled ones, checked against themselves and each other.
///
/// # Errors
/// Every problem at once: file, what is wrong, and the remedy.
pub fn playbooks(folder: Option<&Path>) -> Result<Vec<Playbook>> {
    let files = playbook_files(folder)?;
    let mut all = Vec::with_capacity(files.len());
    let mut problems = Vec::new();
    for (name, text) in &files {
        match Playbook::parse(text) {
            Ok(playbook) if Path::new(name).file_stem().is_some_and(|stem| stem == playbook.id.as_str()) => {
                all.push(playbook)
            }
            Ok(playbook) => problems.push(format!("{name}: its id is `{}`; file and id have one name", playbook.id)),
            Err(what) => problems.push(format!("{name}: {}", playbook_words(&what))),
        }
    }
    problems.extend(check(&all).into_iter().map(|p| format!("{}.yaml: {}", p.playbook, p.text)));
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(all)
}

/// The texts of the settings' playbooks, by id.
///
/// # Errors
/// The folder does not read.
pub fn playbook_texts(settings: &Settings) -> Result<BTreeMap<String, String>> {
    let folder = settings.topology.as_ref().map(|folder| folder.join("playbooks"));
    let stem = |name: &str| Path::new(name).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let files = playbook_files(folder.as_deref())?;
    Ok(files.into_iter().filter_map(|(name, text)| Some((stem(&name)?, text))).collect())
}

fn playbook_files(folder: Option<&Path>) -> Result<Vec<(String, String)>> {
    match folder {
        Some(folder) => read_playbooks(folder),
        None => Ok(PLAYBOOKS.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()),
    }
}

/// What is wrong with the text of a playbook, with what was probably meant.
#[must_use]
pub fn playbook_words(what: &str) -> String {
    super::settings::with_suggestion(what, PLAYBOOK_KEYS)
}

/// One playbook's file, checked against itself.
///
/// # Errors
/// Every problem at once: the file, what is wrong, and the remedy.
pub fn playbook_file(path: &Path) -> Result<Playbook> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    let playbook = Playbook::parse(&text).map_err(|what| anyhow!("{}: {}", path.display(), playbook_words(&what)))?;
    let problems: Vec<String> =
        check(std::slice::from_ref(&playbook)).into_iter().map(|p| format!("{}: {}", path.display(), p.text)).collect();
    if problems.is_empty() { Ok(playbook) } else { bail!("{}", problems.join("\n")) }
}

const PLAYBOOK_KEYS: &[&str] = &[
    "id",
    "version",
    "owner",
    "description",
    "mode",
    "severity",
    "detector",
    "finding",
    "per",
    "over",
    "where",
    "trigger",
    "unless",
    "states",
    "fixtures",
    "failures_of",
    "wide",
    "scale_by_good_accounts",
    "then",
    "tags",
    "action",
    "ladder",
    "ladder_memory",
    "jitter",
    "escalate",
    "cap",
    "entities",
    "within",
    "from",
    "outcome",
    "failure_reason",
    "method",
    "activity",
    "challenge",
    "source",
    "asn",
    "country",
    "account",
    "application",
    "user_agent",
    "device_id",
    "tls_fingerprint",
    "attributes",
    "account_exists",
    "credential_leaked",
    "hosting",
    "proxy",
    "has",
    "lacks",
    "not",
    "fires",
    "value",
    "at_event",
    "state",
    "steps",
    "at_least",
    "at_most",
    "calm",
    "elevated",
    "attack",
];

/// What every step knows, from the settings and the folder.
///
/// # Errors
/// As [`playbooks`] and [`exemptions`].
pub fn env(settings: &Settings, playbooks_folder: Option<&Path>) -> Result<Arc<Env>> {
    let default = settings.topology.as_ref().map(|folder| folder.join("playbooks"));
    let playbooks = playbooks(playbooks_folder.or(default.as_deref()))?;
    Ok(Arc::new(Env {
        plan: Plan::compile(&playbooks)?,
        playbooks: playbooks.into(),
        exemptions: Arc::new(exemptions(settings)?),
        hash_key: settings.hash_key.clone(),
        limits: Limits::default(),
        tenants: settings.tenants.clone(),
    }))
}

fn file(settings: &Settings, name: &str, bundled: &str) -> Result<(String, String)> {
    match &settings.topology {
        Some(folder) => {
            let path = folder.join(name);
            let text = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
            Ok((path.display().to_string(), text))
        }
        None => Ok((format!("bundled {name}"), bundled.to_owned())),
    }
}

fn read_playbooks(folder: &Path) -> Result<Vec<(String, String)>> {
    let listed = std::fs::read_dir(folder)
        .with_context(|| format!("playbooks folder {}; name it with --topology or --playbooks", folder.display()))?;
    let mut paths: Vec<PathBuf> = listed.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|e| e == "yaml" || e == "yml"));
    paths.sort();
    if paths.len() > PLAYBOOKS_MAX {
        bail!("{}: {} playbooks; at most {PLAYBOOKS_MAX}", folder.display(), paths.len());
    }
    paths
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
            Ok((path.display().to_string(), text))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::PLAYBOOKS;

    #[test]
    fn every_shipped_playbook_is_in_the_program() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("topology/playbooks");
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<String> = files.collect();
        files.sort();
        assert_eq!(PLAYBOOKS.iter().map(|(name, _)| *name).collect::<Vec<_>>(), files);
    }
}
