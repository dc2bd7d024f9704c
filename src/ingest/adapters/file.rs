//! A file of what a producer writes, one document a line.

use std::fmt;
use std::io::{self, BufRead};
use std::vec;

use super::{Adapters, Read};
use crate::event::wire::login_event_to_json;
use crate::event::{LoginEvent, Millis};
use crate::ingest::Input;
use crate::ingest::lines::Lines;

/// Reads each line by an adapter. What is no attempt is left out; a line that is broken passes as it is, as in any other
/// format, and becomes a dead letter.
pub struct AdapterReader<'a> {
    name: &'static str,
    adapters: Adapters,
    lines: Lines<'a>,
    now: Millis,
    tenant: String,
    ready: vec::IntoIter<Input>,
    arrival: Option<Millis>,
}

impl fmt::Debug for AdapterReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdapterReader").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<'a> AdapterReader<'a> {
    /// By a built-in adapter of this name; `now` is when events came that do not say it.
    #[must_use]
    pub fn new(name: &'static str, input: Box<dyn BufRead + 'a>, now: Millis, tenant: String) -> Self {
        // Those that come along are right, as a test says.
        let adapters = Adapters::new([]).unwrap_or_default();
        let lines = Lines::new(input);
        AdapterReader { name, adapters, lines, now, tenant, ready: Vec::new().into_iter(), arrival: None }
    }

    fn read(&mut self, line: &[u8]) -> Vec<Input> {
        let broken = |arrival| Input { value: line.to_vec(), arrival };
        let Some(Ok(all)) = self.adapters.read(self.name, line, self.now) else { return vec![broken(self.arrival)] };
        let mut inputs = Vec::new();
        for read in all {
            match read {
                Read::Event(mut event) => {
                    if event.tenant == LoginEvent::default().tenant {
                        event.tenant.clone_from(&self.tenant);
                    }
                    self.arrival = Some(event.occurred_at);
                    inputs.push(Input { value: login_event_to_json(&event), arrival: self.arrival });
                }
                Read::Ignored => {}
                Read::Rejected(_) => inputs.push(broken(self.arrival)),
            }
        }
        inputs
    }
}

impl Iterator for AdapterReader<'_> {
    type Item = io::Result<Input>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(input) = self.ready.next() {
                return Some(Ok(input));
            }
            match self.lines.next_line() {
                Ok(Some(line)) => self.ready = self.read(&line).into_iter(),
                Ok(None) => return None,
                Err(e) => return Some(Err(e)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::event::wire::json_login_event;
    use crate::ingest::adapters::BUILTIN_NAMES;

    #[test]
    fn the_names_are_those_of_the_adapters_that_come_along() {
        let names: Vec<String> = Adapters::new([]).unwrap().names().into_iter().filter(|name| name != "sshd").collect();
        assert_eq!(names, BUILTIN_NAMES);
    }

    #[test]
    fn lines_are_events_and_broken_ones_pass() {
        let text = "203.0.113.9 - - [28/Jun/2019:02:40:14 +0200] \"POST /login HTTP/1.1\" 401 5 \"-\" \"curl\"\n\
                    203.0.113.9 - - [28/Jun/2019:02:40:15 +0200] \"GET / HTTP/1.1\" 200 5 \"-\" \"curl\"\n\
                    garbage\n";
        let reader = AdapterReader::new("nginx", Box::new(Cursor::new(text)), 0, "shop".to_owned());
        let inputs: Vec<Input> = reader.map(Result::unwrap).collect();
        assert_eq!(inputs.len(), 2);
        let event = json_login_event(&inputs[0].value).unwrap().event;
        assert_eq!((event.tenant.as_str(), event.occurred_at), ("shop", 1_561_682_414_000));
        assert_eq!(inputs[1], Input { value: b"garbage".to_vec(), arrival: Some(1_561_682_414_000) });
    }
}
