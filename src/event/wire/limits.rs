//! What one event may take. Beyond a limit it is a dead letter, never a cut value: a cut name is another name.

use crate::event::Millis;

/// Largest record value that is decoded.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// Longest account name, in bytes.
pub const ACCOUNT_BYTES_MAX: usize = 1024;
/// Longest event id.
pub const EVENT_ID_BYTES_MAX: usize = 256;
/// Longest user agent.
pub const USER_AGENT_BYTES_MAX: usize = 8 << 10;
/// Longest value of any other text field.
pub const TEXT_BYTES_MAX: usize = 1024;
/// Most attributes of one event.
pub const ATTRIBUTES_MAX: usize = 64;
/// Most attempts that one event may stand for (`attributes.count`).
pub const COUNT_MAX: u32 = 100_000;
/// Furthest time from 1970 that is taken for an arrival: the end of the year 9999.
pub const ARRIVAL_MS_MAX: Millis = 253_402_300_799_999;
/// Longest tenant name, by the contract's pattern.
pub const TENANT_BYTES_MAX: usize = 63;

// One event must fit a record together with its longest fields.
const _: () = assert!(USER_AGENT_BYTES_MAX + ACCOUNT_BYTES_MAX + 16 * TEXT_BYTES_MAX < RECORD_BYTES_MAX);
