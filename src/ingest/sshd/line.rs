//! The part of a log line in front of the message: when, which host, which process.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::Offset;

use crate::event::Millis;

/// One line that sshd wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) at: Millis,
    pub(super) host: &'a str,
    /// 0 when the line names no process.
    pub(super) pid: u32,
    pub(super) message: &'a str,
}

/// The names under which OpenSSH logs: `sshd-session` since 9.8, `sshd-auth` since 10.0.
const PROGRAMS: &[&str] = &["sshd", "sshd-session", "sshd-auth"];

const MONTHS: &[&str] = &["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

const DAY_MS: Millis = 86_400_000;
/// A line this far before the one before it belongs to the next year: the stamp went from December to January.
const NEW_YEAR_BACK_MS: Millis = 180 * DAY_MS;
/// A line this far after the one before it belongs to the year before: lines around New Year out of order.
const OLD_YEAR_AHEAD_MS: Millis = 360 * DAY_MS;
/// How far a line may lie after the reference time when its year is chosen: clocks differ, and so do zones.
const AHEAD_OF_NOW_MS: Millis = DAY_MS;

/// Gives lines their time. Keeps the time of the last line, because most stamps name no year.
#[derive(Debug)]
pub(super) struct Calendar {
    year: Option<i32>,
    now: Millis,
    zone_minutes: i32,
    last: Option<(i32, Millis)>,
}

/// A stamp without its year.
#[derive(Debug, Clone, Copy)]
struct DayTime {
    month: i8,
    day: i8,
    ms_of_day: Millis,
}

impl Calendar {
    pub(super) fn new(year: Option<i32>, now: Millis, zone_minutes: i32) -> Self {
        Calendar { year, now, zone_minutes, last: None }
    }

    /// The line, when sshd wrote it. Lines of other programs only keep the year going.
    pub(super) fn read<'a>(&mut self, text: &'a str) -> Option<Line<'a>> {
        let (stamp, rest) = split_stamp(text)?;
        let at = match stamp {
            Stamp::Full(text) => self.full(text)?,
            Stamp::Yearless(day_time) => self.yearless(day_time)?,
        };
        let (host, rest) = rest.split_once(' ')?;
        let (program, message) = rest.split_once(':')?;
        let (name, pid) = match program.split_once('[') {
            Some((name, pid)) => (name, pid.strip_suffix(']')?.parse().ok()?),
            None => (program, 0),
        };
        let name = name.rsplit('/').next().unwrap_or(name);
        // One space is the logger's; a second one would be sshd's.
        let message = message.strip_prefix(' ').unwrap_or(message);
        PROGRAMS.contains(&name).then_some(Line { at, host, pid, message })
    }

    fn full(&self, text: &str) -> Option<Millis> {
        if let Ok(at) = text.parse::<Timestamp>() {
            return Some(at.as_millisecond());
        }
        // A stamp with a year and no zone.
        self.in_zone(text.parse::<DateTime>().ok()?)
    }

    fn in_zone(&self, local: DateTime) -> Option<Millis> {
        let at = Offset::UTC.to_timestamp(local).ok()?.as_millisecond();
        Some(at - Millis::from(self.zone_minutes) * 60_000)
    }

    fn yearless(&mut self, stamp: DayTime) -> Option<Millis> {
        let (year, at) = match self.last {
            None => self.first(stamp)?,
            Some((year, last)) => {
                let at = self.at(stamp, year)?;
                if at < last - NEW_YEAR_BACK_MS {
                    (year + 1, self.at(stamp, year + 1)?)
                } else if at > last + OLD_YEAR_AHEAD_MS {
                    // The new year has begun; a late line of the old one does not take it back.
                    return self.at(stamp, year - 1);
                } else {
                    (year, at)
                }
            }
        };
        self.last = Some((year, at));
        Some(at)
    }

    fn first(&self, stamp: DayTime) -> Option<(i32, Millis)> {
        if let Some(year) = self.year {
            return Some((year, self.at(stamp, year)?));
        }
        let latest = self.now.saturating_add(AHEAD_OF_NOW_MS);
        let this_year = i32::from(Timestamp::from_millisecond(latest).ok()?.to_zoned(jiff::tz::TimeZone::UTC).year());
        [this_year + 1, this_year, this_year - 1]
            .into_iter()
            .find_map(|year| self.at(stamp, year).filter(|at| *at <= latest).map(|at| (year, at)))
    }

    fn at(&self, stamp: DayTime, year: i32) -> Option<Millis> {
        let year = i16::try_from(year).ok()?;
        // 29 February in a year without one: the year is wrong, the line is not; it keeps its place after the 28th.
        let date = Date::new(year, stamp.month, stamp.day)
            .or_else(|e| if (stamp.month, stamp.day) == (2, 29) { Date::new(year, 3, 1) } else { Err(e) })
            .ok()?;
        Some(self.in_zone(date.to_datetime(jiff::civil::Time::midnight()))? + stamp.ms_of_day)
    }
}

enum Stamp<'a> {
    Full(&'a str),
    Yearless(DayTime),
}

fn split_stamp(text: &str) -> Option<(Stamp<'_>, &str)> {
    let text = text.trim_start();
    let text = match text.strip_prefix('<') {
        Some(rest) => rest.split_once('>')?.1,
        None => text,
    };
    let (first, rest) = text.split_once(' ')?;
    let Some(month) = MONTHS.iter().zip(1..).find_map(|(name, number)| (*name == first).then_some(number)) else {
        return Some((Stamp::Full(first), rest));
    };
    let (day, rest) = rest.trim_start().split_once(' ')?;
    let (time, rest) = rest.trim_start().split_once(' ')?;
    let day = day.parse().ok().filter(|day| (1..=31).contains(day))?;
    Some((Stamp::Yearless(DayTime { month, day, ms_of_day: ms_of_day(time)? }), rest))
}

/// `HH:MM:SS`, with a fraction of a second when the logger writes one.
fn ms_of_day(text: &str) -> Option<Millis> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = whole.split(':').map(|part| part.parse::<Millis>().ok());
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    // 60 is a leap second.
    let sane = (0..24).contains(&hour) && (0..60).contains(&minute) && (0..=60).contains(&second);
    if !sane || parts.next().is_some() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let ms = fraction.bytes().chain(*b"000").take(3).fold(0, |ms, digit| ms * 10 + Millis::from(digit - b'0'));
    Some(((hour * 60 + minute) * 60 + second) * 1000 + ms)
}
