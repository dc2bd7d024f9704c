//! What Linux says of a process, and the clock of the benches.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Result;

#[expect(clippy::disallowed_methods, reason = "a bench measures time; it is no part of the job")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since the epoch.
#[expect(clippy::disallowed_methods, reason = "a bench compares with the time stamps of records")]
pub(crate) fn epoch_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "a bench looks at intervals and is ended by a signal")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Ticks a second in /proc, on every Linux of today.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds of a process so far, user and system; `None` when it is gone or was not named (0).
pub(crate) fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces; the fields behind it are plain.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

/// CPU seconds of everything on this machine since it started, but for idling.
pub(crate) fn busy_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<f64> = stat.lines().next()?.split_whitespace().skip(1).filter_map(|t| t.parse().ok()).collect();
    // user, nice, system, idle, waiting for a disk, interrupts, soft interrupts
    let busy = [0, 1, 2, 5, 6].into_iter().filter_map(|at| ticks.get(at));
    Some(busy.sum::<f64>() / TICKS_PER_SECOND)
}

/// A figure of /proc/PID/status in MiB, such as `VmHWM`, the most memory it ever had, or `VmRSS`, what it has.
pub(crate) fn memory_mib(pid: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? / 1024)
}

/// Bytes of what lies in a folder under a name that is wanted; files that go meanwhile count 0.
pub(crate) fn bytes_under(folder: &Path, is_wanted: &dyn Fn(&str) -> bool) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if !is_wanted(&entry.file_name().to_string_lossy()) {
            continue;
        }
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => sum += bytes_under(&entry.path(), &|_| true).unwrap_or(0),
            // The length of a file, but no more than it takes on disk: the broker makes index files long beforehand, and
            // RocksDB has room for its log given to it, with nothing in either.
            Ok(metadata) => sum += metadata.len().min(metadata.blocks() * 512),
            Err(_) => {}
        }
    }
    Ok(sum)
}
