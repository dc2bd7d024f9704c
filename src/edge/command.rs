//! Other programs, started by their arguments and never through a shell, and never waited for without a limit.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// Most of a program's words that are kept, in bytes.
const SAID_BYTES_MAX: usize = 4 << 10;
/// How long to wait for the last words of a program that has ended: a child of its own may hold the line open.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Most of a program's answer, in bytes.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Runs a program and waits for its end.
///
/// # Errors
/// It cannot be started, does not end within `limit`, or ends with an error: in its own words.
pub(super) fn run(argv: &[String], limit: Duration) -> Result<(), String> {
    let child = start(argv, Stdio::null(), Stdio::null())?;
    wait(argv, child, limit)
}

/// Runs a program with this input and gives what it answers.
///
/// # Errors
/// As [`run`]; or the answer is too long, or no text.
pub(super) fn talk(argv: &[String], input: &[u8], limit: Duration) -> Result<String, String> {
    let mut child = start(argv, Stdio::piped(), Stdio::piped())?;
    let broken = |e: std::io::Error| format!("`{}`: {e}", argv.join(" "));
    let answer = collect(child.stdout.take(), "answer", ANSWER_BYTES_MAX).map_err(broken)?;
    if let Some(mut pipe) = child.stdin.take() {
        let input = input.to_vec();
        // A program that reads no further ends with an error of its own.
        thread::Builder::new().name("input".to_owned()).spawn(move || drop(pipe.write_all(&input))).map_err(broken)?;
    }
    wait(argv, child, limit)?;
    let answer = answer.recv_timeout(limit).map_err(|_| format!("`{}` holds its answer back", argv.join(" ")))?;
    if answer.len() >= ANSWER_BYTES_MAX {
        return Err(format!("`{}` answers with over {ANSWER_BYTES_MAX} bytes", argv.join(" ")));
    }
    String::from_utf8(answer).map_err(|_| format!("`{}` answers with no text", argv.join(" ")))
}

fn start(argv: &[String], stdin: Stdio, stdout: Stdio) -> Result<Child, String> {
    let Some((program, arguments)) = argv.split_first() else { return Err("no command is set".to_owned()) };
    let started = Command::new(program).args(arguments).stdin(stdin).stdout(stdout).stderr(Stdio::piped()).spawn();
    started.map_err(|e| format!("cannot start `{program}`: {e}"))
}

fn wait(argv: &[String], mut child: Child, limit: Duration) -> Result<(), String> {
    let broken = |e: std::io::Error| format!("`{}`: {e}", argv.join(" "));
    let id = child.id();
    let said = collect(child.stderr.take(), "words", SAID_BYTES_MAX).map_err(broken)?;
    let end = end_of(child).map_err(broken)?;
    match end.recv_timeout(limit) {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => {
            let words = said.recv_timeout(LAST_WORDS).unwrap_or_default();
            let words = String::from_utf8_lossy(&words);
            Err(format!("`{}` failed ({status}): {}", argv.join(" "), words.trim()))
        }
        Ok(Err(e)) => Err(broken(e)),
        Err(_) => {
            let killed = Command::new("kill").args(["-KILL", &id.to_string()]).stderr(Stdio::null()).status();
            let killed = if killed.is_ok_and(|s| s.success()) { "was killed" } else { "could not be killed" };
            Err(format!("`{}` did not end within {} ms and {killed}", argv.join(" "), limit.as_millis()))
        }
    }
}

/// What comes out of a pipe until it is closed, at most `bytes_max` of it.
fn collect<R: Read + Send + 'static>(
    pipe: Option<R>,
    name: &str,
    bytes_max: usize,
) -> std::io::Result<Receiver<Vec<u8>>> {
    let (tell, said) = channel();
    if let Some(mut pipe) = pipe {
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            let mut bytes = Vec::new();
            let first = pipe.by_ref().take(bytes_max as u64).read_to_end(&mut bytes);
            // The rest is drained, so that the program does not stand still on a full pipe.
            let rest = first.and_then(|_| std::io::copy(&mut pipe, &mut std::io::sink()));
            // Nobody listens any more, or the pipe broke: nothing is lost that somebody waits for.
            drop((rest, tell.send(bytes)));
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

    #[test]
    fn a_program_is_told_and_answers() {
        let talk = |argv: &[&str], input: &[u8]| {
            let argv: Vec<String> = argv.iter().map(|a| (*a).to_owned()).collect();
            super::talk(&argv, input, Duration::from_secs(5))
        };
        assert_eq!(talk(&["cat"], b"one\ntwo"), Ok("one\ntwo".to_owned()));
        let long = vec![b'x'; 1_000_000];
        assert_eq!(talk(&["cat"], &long).map(|text| text.len()), Ok(1_000_000));
        assert_eq!(talk(&["true"], &long), Ok(String::new()));
        assert!(talk(&["sh", "-c", "echo no >&2; exit 1"], b"").is_err_and(|e| e.ends_with("no")));
        assert!(talk(&["printf", "\\377"], b"").is_err_and(|e| e.ends_with("no text")));
    }
}
