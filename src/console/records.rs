//! Records of `incident-details` and `activity`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::{AttackState, Millis};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DetailKind {
    Other,
    Target,
    Source,
    Minute,
    Action,
    Trail,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncidentDetail {
    pub incident_id: String,
    pub kind: DetailKind,
    pub value: String,
    pub sealed_account: Option<Vec<u8>>,
    pub counts: BTreeMap<String, i64>,
    pub first_at: Millis,
    pub last_at: Millis,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActivitySlice {
    pub tenant: String,
    pub application: Option<String>,
    pub slice_start: Millis,
    pub slice_end: Millis,
    pub attempts: i64,
    pub failures: i64,
    pub unknown_accounts: i64,
    pub stopped: i64,
    pub usual_attempts: f64,
    pub usual_failures: f64,
    pub usual_unknown_accounts: f64,
    pub statistic: f64,
    pub alarm_level: f64,
    pub state: AttackState,
}
