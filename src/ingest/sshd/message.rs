//! What one message of sshd means.
//!
//! Names are the client's words: they may be empty, hold spaces, or look like the rest of a line
//! (`x from 198.51.100.1 port 22 ssh2`). sshd writes the address behind the name, so a line is read from its end,
//! except where the end is the client's too: the text of a disconnect, and the id in the certificate of a key. There
//! the name is either not part of the line or one that exists on the host, which holds no space, so it is read from
//! its start. Otherwise an attacker could put another's address in the place of their own.

/// What a line says. Names and addresses are as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// `Invalid user U from IP`: the name is nobody's.
    UnknownName {
        account: &'a str,
        source: &'a str,
    },
    /// `User U from IP not allowed because …`: the name exists and may not log in here.
    NotAllowed {
        account: &'a str,
        source: &'a str,
    },
    /// A PAM module saw a wrong password; the `Failed` line follows, if the log level lets it.
    PamFailure {
        module: &'a str,
        account: &'a str,
        source: &'a str,
    },
    Failed {
        method: &'a str,
        account: &'a str,
        unknown_name: bool,
        source: &'a str,
    },
    Accepted {
        method: &'a str,
        account: &'a str,
        source: &'a str,
    },
    /// `error: maximum authentication attempts exceeded for …`.
    TooManyAttempts {
        account: &'a str,
        unknown_name: bool,
        source: &'a str,
    },
    /// The client left or was sent away before it had logged in.
    LeftEarly {
        account: &'a str,
        unknown_name: bool,
        source: &'a str,
    },
    /// The process is over; nothing more is said about a client.
    Ended,
    /// Somebody connected who did not try to log in.
    Scan,
    /// `message repeated N times: [ … ]`: the message inside, N times more.
    Repeated {
        times: u32,
        inner: &'a str,
    },
    /// Explains or decorates; says nothing about an attempt that another line does not say.
    Other,
}

const PREAUTH: &str = " [preauth]";

impl<'a> Message<'a> {
    pub(super) fn parse(text: &'a str) -> Self {
        Self::attempt(text).or_else(|| Self::end(text)).or_else(|| Self::repeated(text)).unwrap_or(Message::Other)
    }

    fn attempt(text: &'a str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix("Failed ") {
            let (method, account, unknown_name, source) = verdict(rest)?;
            return Some(Message::Failed { method, account, unknown_name, source });
        }
        if let Some(rest) = text.strip_prefix("Accepted ") {
            let (method, account, _, source) = verdict(rest)?;
            return Some(Message::Accepted { method, account, source });
        }
        if let Some(rest) = text.strip_prefix("error: maximum authentication attempts exceeded for ") {
            let (name, unknown_name) = known_or_not(rest);
            let (account, source) = from_last(name, &["ssh2", "ssh1"])?;
            return Some(Message::TooManyAttempts { account, unknown_name, source });
        }
        if let Some(rest) = text.strip_prefix("Invalid user ") {
            let (account, source) = from_last(rest, &[])?;
            return Some(Message::UnknownName { account, source });
        }
        if let Some(rest) = text.strip_prefix("User ") {
            let (who, _) = rest.split_once(" not allowed because ")?;
            let (account, source) = who.split_once(" from ")?;
            return Some(Message::NotAllowed { account, source });
        }
        pam_failure(text)
    }

    fn end(text: &'a str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix("Received disconnect from ") {
            // Behind the address stands the client's own text.
            let source = rest.split(' ').next()?;
            let source = source.strip_suffix(':').unwrap_or(source);
            let early = text.ends_with(PREAUTH);
            let left = Message::LeftEarly { account: "", unknown_name: false, source };
            return Some(if early { left } else { Message::Ended });
        }
        for start in ["Connection closed by ", "Connection reset by ", "Disconnected from "] {
            if let Some(rest) = text.strip_prefix(start) {
                return Some(rest.strip_suffix(PREAUTH).and_then(left_early).unwrap_or(Message::Ended));
            }
        }
        let scan = ["Did not receive identification string", "Unable to negotiate", "banner exchange: "];
        if scan.iter().any(|start| text.starts_with(start)) || text.starts_with("Bad protocol version identification") {
            return Some(Message::Scan);
        }
        // `Disconnecting` names the address between two texts of the client, so it only ends the process; what it
        // ends has always been said before.
        let over = ["fatal: ", "Disconnecting", "ssh_dispatch_run_fatal: ", "Timeout before authentication"];
        over.iter().any(|start| text.starts_with(start)).then_some(Message::Ended)
    }

    fn repeated(text: &'a str) -> Option<Self> {
        let (times, rest) = text.strip_prefix("message repeated ")?.split_once(" times: [")?;
        let inner = rest.trim_start().trim_end().strip_suffix(']')?;
        Some(Message::Repeated { times: times.parse().ok()?, inner })
    }
}

/// `METHOD for [invalid user ]U from IP port P ssh2[: key]` → method, name, whether it is nobody's, address.
fn verdict(text: &str) -> Option<(&str, &str, bool, &str)> {
    let (method, rest) = text.split_once(" for ")?;
    let (name, unknown_name) = known_or_not(rest);
    // The key of a name that exists is described at the end, and a certificate's id in there is the client's text.
    let (account, source) = if method == "publickey" && !unknown_name {
        let (account, rest) = name.split_once(" from ")?;
        (account, rest.split_once(" port ")?.0)
    } else {
        from_last(name, &["ssh2", "ssh1"])?
    };
    Some((method, account, unknown_name, source))
}

/// `U from IP[ port P][ word]`, the address being what stands behind the last ` from `.
fn from_last<'a>(text: &'a str, last_words: &[&str]) -> Option<(&'a str, &'a str)> {
    let text = text.strip_suffix(PREAUTH).unwrap_or(text);
    // The address and what follows it hold no ` from `; an empty name leaves its space at the start.
    let (account, tail) = match text.rsplit_once(" from ") {
        Some(found) => found,
        None => ("", text.strip_prefix("from ")?),
    };
    let mut words = tail.split(' ');
    let source = words.next().filter(|word| !word.is_empty())?;
    match words.next() {
        None => return Some((account, source)),
        Some("port") => {}
        Some(_) => return None,
    }
    words.next()?.parse::<u32>().ok()?;
    let rest = words.next();
    // `ssh2:` is followed by the description of a key, which has no place behind a name that is nobody's.
    let plain = rest.is_none_or(|word| last_words.contains(&word)) && words.next().is_none();
    plain.then_some((account, source))
}

fn known_or_not(text: &str) -> (&str, bool) {
    // `illegal user` is what OpenSSH before 4 wrote.
    match text.strip_prefix("invalid user ").or_else(|| text.strip_prefix("illegal user ")) {
        Some(name) => (name, true),
        None => (text, false),
    }
}

/// `[authenticating user U |invalid user U ]IP[ port P]`, read from its end.
fn left_early(text: &str) -> Option<Message<'_>> {
    let text = match text.rsplit_once(" port ") {
        Some((rest, port)) if port.parse::<u32>().is_ok() => rest,
        Some(_) | None => text,
    };
    let (who, source) = text.rsplit_once(' ').unwrap_or(("", text));
    let (account, unknown_name) = if let Some(name) = who.strip_prefix("invalid user") {
        (name.strip_prefix(' ').unwrap_or(name), true)
    } else if let Some(name) = who.strip_prefix("authenticating user") {
        (name.strip_prefix(' ').unwrap_or(name), false)
    } else {
        (who, false)
    };
    Some(Message::LeftEarly { account, unknown_name, source })
}

/// `pam_unix(sshd:auth): authentication failure; … rhost=IP user=U`; any module, since hosts chain several.
fn pam_failure(text: &str) -> Option<Message<'_>> {
    let (module, rest) = text.strip_prefix("pam_")?.split_once("(sshd:auth): authentication failure;")?;
    let (_, rest) = rest.split_once(" rhost=")?;
    let (source, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let account = rest.trim_start().strip_prefix("user=").unwrap_or_default().trim_end();
    Some(Message::PamFailure { module, account, source })
}
