//! A server process that lives at most as long as the test process, however that one ends: returned, panicked,
//! interrupted or killed with signal 9, where no destructor runs.
//!
//! A small shell stands between. It waits for the end of its standard input, which is a pipe that only the test process
//! holds open; the kernel closes it whatever happens. Then it ends the server and removes its folder.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::tail;

/// `$1` folder, `$2` first signal, then the command. Ends with the server's status as soon as the server ends; the inner
/// part lives until the pipe closes, so the folder with its logs is there as long as a test may want to read it.
const KEEPER: &str = r#"
exec 3<&0
folder=$1 signal=$2
shift 2
"$@" 3<&- </dev/null >>"$folder/out.log" 2>&1 &
server=$!
{
    cat <&3 >/dev/null
    if [ ! -e "$folder/ended" ]; then
        kill -s "$signal" "$server"
        tries=0
        while [ ! -e "$folder/ended" ] && [ "$tries" -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
        [ -e "$folder/ended" ] || kill -s KILL "$server"
    fi
    rm -rf "$folder"
} >/dev/null 2>&1 &
exec 3<&-
wait "$server"
status=$?
: >"$folder/ended"
exit "$status"
"#;

/// How the server is told to end.
#[derive(Debug, Clone, Copy)]
pub enum EndBy {
    /// At once; for what has no children.
    Kill,
    /// By SIGTERM, and SIGKILL after 5 s; for what has workers to end.
    Term,
}

#[derive(Debug)]
pub struct Kept {
    keeper: Child,
    folder: PathBuf,
}

impl Kept {
    /// Starts `command` in the keeping of a shell. The folder goes when the server does.
    pub fn start(folder: PathBuf, end_by: EndBy, command: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Kept {
        let signal = match end_by {
            EndBy::Kill => "KILL",
            EndBy::Term => "TERM",
        };
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&folder)
            .arg(signal)
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        Kept { keeper, folder }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the server has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.keeper.try_wait().expect("the keeper can be asked").is_some()
    }

    /// The status it ended with, when it has: 128 and the signal's number where a signal ended it.
    pub fn status(&mut self) -> Option<i32> {
        self.keeper.try_wait().expect("the keeper can be asked").map(|status| status.code().unwrap_or(-1))
    }

    /// The end of what the server wrote to its standard output and error.
    pub fn last_words(&self) -> String {
        tail(&self.folder.join("out.log"), 40)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // The keeper ends when the server has; a failure to wait leaves nothing to do.
        drop(self.keeper.wait());
    }
}

/// A new folder that is not removed by its handle, because a static is never dropped: the keeper removes it.
pub fn folder(prefix: &str) -> PathBuf {
    tempfile::Builder::new().prefix(prefix).tempdir().expect("a temporary folder").keep()
}

mod the_keeper {
    use std::time::Duration;

    use super::*;
    use crate::support::until;

    fn lives(pid: &str) -> bool {
        // A zombie is dead: its parent has not looked yet.
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    fn pid_written_to(file: &Path) -> String {
        until(Duration::from_secs(10), "a process id", || {
            std::fs::read_to_string(file).ok().and_then(|text| text.strip_suffix('\n').map(str::to_owned))
        })
    }

    #[test]
    fn ends_the_server_and_removes_its_folder_when_dropped() {
        let folder = folder("portcullis-kept-");
        let kept = Kept::start(folder.clone(), EndBy::Kill, ["sh", "-c", "echo $$; exec sleep 1000"]);
        let pid = pid_written_to(&folder.join("out.log"));
        assert!(lives(&pid));
        drop(kept);
        until(Duration::from_secs(10), "the server's end", || (!lives(&pid)).then_some(()));
        until(Duration::from_secs(10), "the folder's end", || (!folder.exists()).then_some(()));
    }

    #[test]
    fn ends_the_server_when_its_holder_is_killed() {
        let folder = folder("portcullis-kept-");
        let mark = tempfile::NamedTempFile::new().unwrap();
        // Another shell plays the test process: it holds the pipe, and dies by signal 9.
        let script = r#"mkfifo "$1/in"; sh -c "$2" keeper "$1" KILL sh -c 'echo $$ >"$0"; exec sleep 1000' "$3" <"$1/in" & exec 4>"$1/in"; exec sleep 1000"#;
        let mut holder = Command::new("sh")
            .args(["-c", script, "holder"])
            .arg(&folder)
            .arg(KEEPER)
            .arg(mark.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = pid_written_to(mark.path());
        assert!(lives(&pid));
        holder.kill().unwrap();
        holder.wait().unwrap();
        until(Duration::from_secs(10), "the server's end", || (!lives(&pid)).then_some(()));
        until(Duration::from_secs(10), "the folder's end", || (!folder.exists()).then_some(()));
    }

    #[test]
    fn tells_when_the_server_ended_by_itself() {
        let mut kept = Kept::start(folder("portcullis-kept-"), EndBy::Term, ["sh", "-c", "echo farewell; exit 3"]);
        until(Duration::from_secs(10), "its end", || kept.has_ended().then_some(()));
        assert_eq!(kept.last_words(), "farewell");
    }
}
