//! What the house rules say and a program can check: which room may use which, what the pure rooms may touch, and what
//! no file may hold. It reads tokens, so it knows every way of writing a path and is fooled by no comment or text.

use std::path::{Path, PathBuf};

use crate::support::repository;

/// A room may use only the rooms before it. `lib.rs` and `main.rs` may use all.
const ROOMS: [&str; 13] = [
    "event", "topology", "window", "detect", "decide", "engine", "state", "log", "edge", "ingest", "console", "notify",
    "app",
];

/// The rooms that are values in, values out.
const PURE: [&str; 6] = ["event", "topology", "window", "detect", "decide", "engine"];

/// What a pure room may not name: a path that starts so, and why not.
const NOT_IN_A_PURE_ROOM: &[(&[&str], &str)] = &[
    (&["tokio"], "the core is synchronous"),
    (&["rdkafka"], "Kafka belongs to `log`"),
    (&["rocksdb"], "RocksDB belongs to `state`"),
    (&["axum"], "sockets belong to `edge`, `ingest` and `console`"),
    (&["ureq"], "sockets belong to `edge`, `ingest` and `console`"),
    (&["lettre"], "mail belongs to `notify`"),
    (&["signal_hook"], "signals belong to `app`"),
    (&["indicatif"], "the terminal belongs to `app`"),
    (&["rand"], "a step repeated over the same input gives the same bytes"),
    (&["std", "fs"], "text in, value out: the caller reads the file"),
    (&["std", "env"], "settings are read by `app::settings` and handed in"),
    (&["std", "process"], "the core starts and ends nothing"),
    (&["std", "thread"], "the core is synchronous"),
    (&["std", "net", "TcpStream"], "the core opens no socket"),
    (&["std", "net", "TcpListener"], "the core opens no socket"),
    (&["std", "net", "UdpSocket"], "the core opens no socket"),
    (&["std", "net", "ToSocketAddrs"], "it asks the name server"),
    (&["std", "time", "SystemTime"], "time is an argument"),
    (&["std", "time", "Instant"], "time is an argument"),
];

const PRINTING: [&str; 5] = ["println", "print", "eprintln", "eprint", "dbg"];
const UNFINISHED: [&str; 2] = ["todo", "unimplemented"];

#[test]
fn rooms_use_only_the_rooms_above_them() {
    check_rooms(direction);
}

#[test]
fn pure_rooms_see_no_clock_socket_file_store_or_broker() {
    check_rooms(purity);
}

#[test]
fn every_source_file_belongs_to_a_room_and_is_finished() {
    let mut faults = Vec::new();
    for file in rust_files(&repository().join("src")) {
        let name = relative(&file);
        if room_of(&file).is_none() && name != "src/lib.rs" && name != "src/main.rs" {
            faults.push(format!("{name}: belongs to no room; the rooms are {}", ROOMS.join(", ")));
        }
        let tokens = tokens(&read(&file));
        faults.extend(macros(&tokens, &UNFINISHED).map(|(line, word)| format!("{name}:{line}: `{word}!` in src")));
    }
    assert_no(&faults);
}

#[test]
fn no_file_names_a_place_on_one_machine() {
    // Written in pieces, so that this file does not find itself.
    let places = [
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
        concat!("/Us", "ers/"),
        concat!("/wo", "rk/"),
        concat!("C:\\Us", "ers\\"),
        concat!("/priv", "ate/tmp/"),
    ];
    let mut faults = Vec::new();
    for file in repository_files() {
        let name = relative(&file);
        // Sample logs may hold any path that a client asked for.
        if name.starts_with("tests/data/") {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        for (index, line) in text.lines().enumerate() {
            for place in places {
                let found = line.match_indices(place).any(|(at, _)| {
                    // Part of a longer path or of a web address is another place.
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-~}$*)".contains(c))
                });
                if found {
                    faults.push(format!("{name}:{}: holds `{place}…`, a path of one machine", index + 1));
                }
            }
        }
    }
    assert_no(&faults);
}

fn check_rooms(rule: fn(&Place<'_>, &[Token]) -> Vec<String>) {
    let mut faults = Vec::new();
    for file in rust_files(&repository().join("src")) {
        if let Some(room) = room_of(&file) {
            let name = relative(&file);
            let place = Place { file: &name, room, module_depth: module_depth(&file) };
            faults.extend(rule(&place, &tokens(&read(&file))));
        }
    }
    assert_no(&faults);
}

fn assert_no(faults: &[String]) {
    assert!(faults.is_empty(), "{} fault(s):\n{}", faults.len(), faults.join("\n"));
}

/// The file under the eye of a rule.
struct Place<'a> {
    file: &'a str,
    room: &'static str,
    /// Modules between the crate root and the file's own items: 1 for `src/event/mod.rs`.
    module_depth: usize,
}

fn direction(place: &Place<'_>, tokens: &[Token]) -> Vec<String> {
    let rank = |room: &str| ROOMS.iter().position(|known| *known == room);
    let mine = rank(place.room);
    let mut faults = Vec::new();
    for path in paths(tokens) {
        let Some(target) = path.below_crate_root(place.module_depth) else { continue };
        if target == "*" {
            faults.push(format!("{}:{}: `*` of the crate root names every room at once", place.file, path.line));
        } else if rank(target) > mine {
            faults.push(format!(
                "{}:{}: room `{}` uses `{target}`, which is below it; a room uses only rooms above it: {}",
                place.file,
                path.line,
                place.room,
                ROOMS.join(" > ")
            ));
        }
    }
    faults
}

fn purity(place: &Place<'_>, tokens: &[Token]) -> Vec<String> {
    if !PURE.contains(&place.room) {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for path in paths(tokens) {
        for (banned, why) in NOT_IN_A_PURE_ROOM {
            // `std::fs` by any name, and the `*` that would bring it in.
            let named = path.segments.iter().map(String::as_str);
            let starts = path.segments.len() >= banned.len() && named.zip(*banned).all(|(a, b)| a == *b);
            let globbed = path.segments.len() == banned.len()
                && path.segments.last().is_some_and(|last| last == "*")
                && path.segments[..banned.len() - 1].iter().zip(*banned).all(|(a, b)| a == b);
            if starts || globbed {
                let text = path.segments.join("::");
                faults.push(format!("{}:{}: pure room `{}` names `{text}`; {why}", place.file, path.line, place.room));
            }
        }
    }
    for (line, word) in macros(tokens, &PRINTING) {
        faults.push(format!("{}:{line}: pure room `{}` prints (`{word}!`)", place.file, place.room));
    }
    faults
}

/// The room a file is in: `src/<room>.rs` or anything under `src/<room>/`.
fn room_of(file: &Path) -> Option<&'static str> {
    let inside = file.strip_prefix(repository().join("src")).ok()?;
    let first = inside.components().next()?.as_os_str().to_str()?;
    let first = first.strip_suffix(".rs").unwrap_or(first);
    ROOMS.into_iter().find(|room| *room == first)
}

fn module_depth(file: &Path) -> usize {
    let inside = file.strip_prefix(repository().join("src")).expect("a file of src");
    let folders = inside.components().count() - 1;
    if inside.file_name().is_some_and(|name| name == "mod.rs") { folders } else { folders + 1 }
}

fn relative(file: &Path) -> String {
    file.strip_prefix(repository()).unwrap_or(file).display().to_string()
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = walk(folder);
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    files
}

/// Files that git knows or would add; of a tree without git, everything but what is built.
fn repository_files() -> Vec<PathBuf> {
    let listed = std::process::Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(repository())
        .output();
    match listed {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => {
            let names = String::from_utf8_lossy(&output.stdout).into_owned();
            names.split('\0').filter(|name| !name.is_empty()).map(|name| repository().join(name)).collect()
        }
        Ok(_) | Err(_) => walk(repository()),
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
            let entry = entry.expect("a folder entry");
            let path = entry.path();
            let kind = entry.file_type().expect("a file type");
            if kind.is_dir() && ![".git", "target", "state"].iter().any(|name| path == repository().join(name)) {
                folders.push(path);
            } else if kind.is_file() {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// A word or a mark of Rust source, without comments, texts and white space.
#[derive(Debug, Clone, PartialEq)]
struct Token {
    line: usize,
    text: String,
}

fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < chars.len() {
        let start = i;
        match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 || i >= chars.len() {
                        break;
                    }
                }
            }
            '"' => i = after_text(&chars, i),
            'r' | 'b' | 'c' if text_prefix(&chars, i).is_some() => i = text_prefix(&chars, i).unwrap(),
            // A character, or else a lifetime.
            '\'' if at(i + 1) == '\\' => {
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            }
            '\'' if at(i + 2) == '\'' => i += 3,
            '\'' => i += 1,
            c if is_word(c) => {
                while is_word(at(i)) {
                    i += 1;
                }
                out.push(Token { line, text: chars[start..i].iter().collect() });
            }
            ':' if at(i + 1) == ':' => {
                i += 2;
                out.push(Token { line, text: "::".to_owned() });
            }
            c => {
                i += 1;
                if !c.is_whitespace() {
                    out.push(Token { line, text: c.to_string() });
                }
            }
        }
        line += chars[start..i.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    out
}

/// The index after a text in quotes that begins at `start`.
fn after_text(chars: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// The index after a prefixed text (`r"…"`, `br#"…"#`, `b"…"`, `c"…"`, `b'…'`) that begins at `start`, if one does.
fn text_prefix(chars: &[char], start: usize) -> Option<usize> {
    let mut i = start;
    let mut raw = false;
    while let Some('r' | 'b' | 'c') = chars.get(i) {
        raw |= chars[i] == 'r';
        i += 1;
    }
    if i - start > 2 {
        return None;
    }
    let hashes = chars[i..].iter().take_while(|c| **c == '#').count();
    match chars.get(i + hashes) {
        Some('"') if raw => {
            let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            let body = i + hashes + 1;
            let length = chars[body..].windows(end.len()).position(|window| window == end)?;
            Some(body + length + end.len())
        }
        Some('"') if hashes == 0 => Some(after_text(chars, i)),
        Some('\'') if hashes == 0 && chars[start] == 'b' => {
            let body = if chars.get(i + 1) == Some(&'\\') { i + 3 } else { i + 2 };
            let length = chars.get(body..)?.iter().position(|c| *c == '\'')?;
            Some(body + length + 1)
        }
        Some(_) | None => None,
    }
}

/// A path as written, one for each leaf of a `use` tree.
#[derive(Debug)]
struct Written {
    line: usize,
    /// Inline modules (`mod tests { … }`) around it.
    inline_modules: usize,
    segments: Vec<String>,
}

impl Written {
    /// The item of the crate root that the path goes through: after `crate::`, or after enough `super::`.
    fn below_crate_root(&self, module_depth: usize) -> Option<&str> {
        let first = self.segments.first()?;
        if first == "crate" {
            return self.segments.get(1).map(String::as_str);
        }
        let own = usize::from(first == "self");
        let up = self.segments[own..].iter().take_while(|segment| *segment == "super").count();
        if up > 0 && up >= module_depth + self.inline_modules {
            return self.segments.get(own + up).map(String::as_str);
        }
        None
    }
}

fn paths(tokens: &[Token]) -> Vec<Written> {
    let text = |index: usize| tokens.get(index).map_or("", |token| token.text.as_str());
    let mut out = Vec::new();
    let (mut depth, mut modules) = (0_usize, Vec::new());
    let mut i = 0;
    while i < tokens.len() {
        match text(i) {
            "mod" if text(i + 2) == "{" => {
                modules.push(depth);
                depth += 1;
                i += 3;
            }
            "{" => (depth, i) = (depth + 1, i + 1),
            "}" => {
                depth = depth.saturating_sub(1);
                if modules.last() == Some(&depth) {
                    modules.pop();
                }
                i += 1;
            }
            word if is_name(word) && (text(i + 1) == "::" || (i > 0 && text(i - 1) == "use")) => {
                i = path_tree(tokens, i, &[], modules.len(), &mut out);
            }
            _ => i += 1,
        }
    }
    out
}

/// Reads the path or tree that begins at `start` and returns the index after it.
fn path_tree(
    tokens: &[Token],
    start: usize,
    before: &[String],
    inline_modules: usize,
    out: &mut Vec<Written>,
) -> usize {
    let text = |index: usize| tokens.get(index).map_or("", |token| token.text.as_str());
    let mut segments = before.to_vec();
    let mut i = start;
    loop {
        match text(i) {
            "{" => {
                i += 1;
                while !matches!(text(i), "}" | "") {
                    i = match text(i) {
                        word if is_name(word) || matches!(word, "*" | "{") => {
                            path_tree(tokens, i, &segments, inline_modules, out)
                        }
                        // A comma, or `as` and the name after it.
                        _ => i + 1,
                    };
                }
                return i + 1;
            }
            word if is_name(word) || word == "*" => {
                segments.push(word.to_owned());
                i += 1;
            }
            _ => break,
        }
        if text(i) != "::" {
            break;
        }
        i += 1;
    }
    if text(i) == "as" {
        i += 2;
    }
    let line = tokens.get(start).map_or(0, |token| token.line);
    out.push(Written { line, inline_modules, segments });
    i.max(start + 1)
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_') && word != "as"
}

fn macros<'a>(tokens: &'a [Token], names: &'a [&str]) -> impl Iterator<Item = (usize, &'a str)> {
    tokens
        .windows(2)
        .filter(|pair| pair[1].text == "!" && names.contains(&pair[0].text.as_str()))
        .map(|pair| (pair[0].line, pair[0].text.as_str()))
}

/// The rules against sources that break them and sources that look as if they did.
mod the_reader {
    use super::*;

    #[track_caller]
    fn check(
        rule: fn(&Place<'_>, &[Token]) -> Vec<String>,
        room: &'static str,
        depth: usize,
        source: &str,
        lines: &[usize],
    ) {
        let place = Place { file: "src/x.rs", room, module_depth: depth };
        let faults = rule(&place, &tokens(source));
        let found: Vec<usize> = faults
            .iter()
            .map(|fault| fault.split(':').nth(1).and_then(|line| line.parse().ok()).expect("file:line"))
            .collect();
        assert_eq!(found, lines, "{source}\n{faults:#?}");
    }

    #[test]
    fn sees_every_way_to_name_a_room_below() {
        check(direction, "event", 1, "use crate::app::Clock;", &[1]);
        check(direction, "event", 1, "\nuse crate::{event::Source, window::{Slice, Grace}};", &[2, 2]);
        check(direction, "event", 1, "fn f() -> crate::state::Store { crate::log::open() }", &[1, 1]);
        check(direction, "event", 1, "pub(crate) fn f(x: &crate::app) {}\npub use crate::engine as e;", &[1, 2]);
        check(direction, "detect", 2, "use super::super::decide::Playbook;", &[1]);
        check(direction, "detect", 1, "use super::decide::Playbook;", &[1]);
        check(direction, "detect", 1, "mod tests { use super::super::decide::X; use super::*; }", &[1]);
        check(direction, "detect", 1, "use crate::*;", &[1]);
        check(direction, "decide", 1, "macro_rules! m { () => { $crate::console::page() } }", &[1]);
    }

    #[test]
    fn lets_rooms_above_pass() {
        check(direction, "app", 1, "use crate::{event, console::Page, app::clock};", &[]);
        check(direction, "engine", 2, "use super::window; use crate::detect::{self, Finding};", &[]);
        check(
            direction,
            "event",
            2,
            "// use crate::app;\n/* crate::app::x /* */ */ const A: &str = \"crate::app::x\";",
            &[],
        );
        check(direction, "event", 2, "const A: &str = r#\"\"crate::app::x\"#; fn f<'a>(x: &'a str) {}", &[]);
        check(direction, "event", 2, "const Q: char = '\"'; const B: u8 = b'\\''; use crate::event::A; // \"", &[]);
        check(direction, "event", 3, "use super::super::address; mod t { use super::super::super::names; }", &[]);
        check(direction, "event", 1, "use std::io::{self, log}; fn app() { state::x() }", &[]);
    }

    #[test]
    fn sees_what_a_pure_room_may_not_touch() {
        check(purity, "engine", 1, "use std::{fs, net::{IpAddr, TcpStream}};", &[1, 1]);
        check(
            purity,
            "engine",
            1,
            "fn f() {\n std::env::var(\"A\");\n tokio::spawn(x);\n println!(\"\");\n}",
            &[2, 3, 4],
        );
        check(purity, "window", 1, "use std::time::*;", &[1, 1]);
        check(purity, "window", 1, "use std::time::{Duration, Instant};", &[1]);
        check(purity, "topology", 1, "use rand::Rng;\nuse rocksdb;", &[1, 2]);
    }

    #[test]
    fn lets_values_pass() {
        check(purity, "event", 1, "use std::net::{IpAddr, Ipv6Addr}; use std::time::Duration; use rand_core::X;", &[]);
        check(purity, "event", 1, "write!(f, \"println!\"); let fs = 1; my::std::fs::x();", &[]);
        check(purity, "state", 1, "use rocksdb::DB; use std::fs; println!();", &[]);
    }
}
