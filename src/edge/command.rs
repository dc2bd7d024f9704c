//! Other programs, started by their arguments and never through a shell, and never waited for without a limit.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// Most of a program's words that are kept, in bytes.
const SAID_BYTES_MAX: usize = 4 << 10;
/// How long to wait for the last words of a program that has ended: a child of its own may hold the line open.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Runs a program and waits for its end.
///
/// # Errors
/// It cannot be started, does not end within `limit`, or ends with an error: in its own words.
pub(super) fn run(argv: &[String], limit: Duration) -> Result<(), String> {
    let Some((program, arguments)) = argv.split_first() else { return Err("no command is set".to_owned()) };
    let broken = |e: std::io::Error| format!("cannot start `{program}`: {e}");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(broken)?;
    let id = child.id();
    let said = listen(&mut child).map_err(broken)?;
    let end = end_of(child).map_err(broken)?;
    match end.recv_timeout(limit) {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => {
            let words = said.recv_timeout(LAST_WORDS).unwrap_or_default();
            Err(format!("`{}` failed ({status}): {}", argv.join(" "), words.trim()))
        }
        Ok(Err(e)) => Err(format!("`{program}`: {e}")),
        Err(_) => {
            let killed = Command::new("kill").args(["-KILL", &id.to_string()]).stderr(Stdio::null()).status();
            let killed = if killed.is_ok_and(|s| s.success()) { "was killed" } else { "could not be killed" };
            Err(format!("`{}` did not end within {} ms and {killed}", argv.join(" "), limit.as_millis()))
        }
    }
}

/// What the program writes to its error output, once that is closed.
fn listen(child: &mut Child) -> std::io::Result<Receiver<String>> {
    let (tell, said) = channel();
    if let Some(mut output) = child.stderr.take() {
        thread::Builder::new().name("words".to_owned()).spawn(move || {
            let mut words = Vec::new();
            let first = output.by_ref().take(SAID_BYTES_MAX as u64).read_to_end(&mut words);
            // The rest is drained, so that the program does not stand still on a full pipe.
            let rest = first.and_then(|_| std::io::copy(&mut output, &mut std::io::sink()));
            let text = String::from_utf8_lossy(&words).into_owned();
            // Nobody listens any more, or the pipe broke: nothing is lost that somebody waits for.
            drop((rest, tell.send(text)));
        })?;
    }
    Ok(said)
}

/// Its exit status, once it has ended.
fn end_of(mut child: Child) -> std::io::Result<Receiver<std::io::Result<ExitStatus>>> {
    let (tell, end) = channel();
    thread::Builder::new().name("child".to_owned()).spawn(move || drop(tell.send(child.wait())))?;
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(argv: &[&str], limit_ms: u64, expected: &str) {
        let argv: Vec<String> = argv.iter().map(|a| (*a).to_owned()).collect();
        let seen = run(&argv, Duration::from_millis(limit_ms)).err().unwrap_or_default();
        assert!(seen.contains(expected) && seen.is_empty() == expected.is_empty(), "{argv:?}: {seen}");
    }

    #[test]
    fn a_program_answers_fails_hangs_or_is_not_there() {
        check(&["true"], 5_000, "");
        check(&["sh", "-c", "echo in its own words >&2; exit 3"], 5_000, "in its own words");
        check(&["sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 3"], 5_000, "exit status: 3");
        check(&["sleep", "60"], 50, "did not end within 50 ms and was killed");
        check(&["portcullis-no-such-program"], 5_000, "cannot start `portcullis-no-such-program`");
        check(&["echo", "; exit 1"], 5_000, "");
        check(&[], 5_000, "no command is set");
    }
}
