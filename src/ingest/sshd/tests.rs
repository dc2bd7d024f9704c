//! Literal lines and the attempts that they are.

use std::io::Cursor;

use super::process::PROCESSES_MAX;
use super::*;
use crate::event::wire::{format_millis, json_login_event};

fn options() -> SshdOptions {
    SshdOptions { year: Some(2014), ..SshdOptions::default() }
}

fn events(text: &str, options: SshdOptions) -> Vec<(LoginEvent, Millis)> {
    SshdReader::new(Box::new(Cursor::new(text.to_owned())), options)
        .map(|input| {
            let input = input.unwrap();
            (json_login_event(&input.value).unwrap().event, input.arrival.unwrap())
        })
        .collect()
}

/// One line an attempt: `account source exists outcome reason method`, `-` for nothing.
fn told(event: &LoginEvent) -> String {
    let exists = event.account_exists.map_or("-".to_owned(), |exists| exists.to_string());
    let LoginEvent { account, source_ip, outcome, failure_reason, method, .. } = event;
    format!("[{account}] {source_ip} {exists} {outcome} {failure_reason} {method}")
}

/// The messages are one process's, a second apart.
fn check(messages: &[&str], want: &[&str]) {
    let lines: Vec<String> =
        messages.iter().zip(10..).map(|(m, s)| format!("Nov 30 06:39:{s} host sshd[7]: {m}\n")).collect();
    let seen: Vec<String> = events(&lines.concat(), options()).iter().map(|(event, _)| told(event)).collect();
    assert_eq!(seen, want, "{messages:#?}");
}

#[test]
fn one_line_is_one_attempt() {
    let cases = [
        (
            "Failed password for root from 192.0.2.1 port 22 ssh2",
            "[root] 192.0.2.1 true FAILURE WRONG_PASSWORD PASSWORD",
        ),
        (
            "Failed password for invalid user bob from 2001:db8::1 port 22 ssh2",
            "[bob] 2001:db8::1 false FAILURE UNKNOWN_ACCOUNT PASSWORD",
        ),
        (
            "Failed keyboard-interactive/pam for root from 192.0.2.1 port 2 ssh2",
            "[root] 192.0.2.1 true FAILURE WRONG_PASSWORD PASSWORD",
        ),
        (
            "Failed publickey for root from 192.0.2.1 port 2 ssh2: RSA SHA256:abc",
            "[root] 192.0.2.1 true FAILURE UNSPECIFIED OTHER",
        ),
        (
            "Failed none for invalid user x from 192.0.2.1 port 2 ssh2",
            "[x] 192.0.2.1 false FAILURE UNKNOWN_ACCOUNT PASSWORD",
        ),
        ("Invalid user admin from 192.0.2.1", "[admin] 192.0.2.1 false FAILURE UNKNOWN_ACCOUNT PASSWORD"),
        ("Invalid user admin from 192.0.2.1 port 41234", "[admin] 192.0.2.1 false FAILURE UNKNOWN_ACCOUNT PASSWORD"),
        ("Accepted password for eve from 192.0.2.1 port 2 ssh2", "[eve] 192.0.2.1 - SUCCESS NONE PASSWORD"),
        (
            "Accepted publickey for eve from 192.0.2.1 port 2 ssh2: ED25519 SHA256:x",
            "[eve] 192.0.2.1 - SUCCESS NONE OTHER",
        ),
        ("Connection closed by 192.0.2.1 [preauth]", "[] 192.0.2.1 - FAILURE UNSPECIFIED PASSWORD"),
        ("Connection closed by 192.0.2.1 port 22 [preauth]", "[] 192.0.2.1 - FAILURE UNSPECIFIED PASSWORD"),
        (
            "Connection closed by authenticating user root 192.0.2.1 port 22 [preauth]",
            "[root] 192.0.2.1 - FAILURE UNSPECIFIED PASSWORD",
        ),
        (
            "Connection closed by invalid user bob 192.0.2.1 port 22 [preauth]",
            "[bob] 192.0.2.1 false FAILURE UNKNOWN_ACCOUNT PASSWORD",
        ),
        ("Connection reset by 192.0.2.1 port 22 [preauth]", "[] 192.0.2.1 - FAILURE UNSPECIFIED PASSWORD"),
        (
            "Disconnected from invalid user  192.0.2.1 port 22 [preauth]",
            "[] 192.0.2.1 false FAILURE UNKNOWN_ACCOUNT PASSWORD",
        ),
        ("Received disconnect from 192.0.2.1: 11: Bye Bye [preauth]", "[] 192.0.2.1 - FAILURE UNSPECIFIED PASSWORD"),
        ("Received disconnect from 192.0.2.1 port 22:11: Bye [preauth]", "[] 192.0.2.1 - FAILURE UNSPECIFIED PASSWORD"),
        ("Received disconnect from 2001:db8::1: 11:  [preauth]", "[] 2001:db8::1 - FAILURE UNSPECIFIED PASSWORD"),
        (
            "error: maximum authentication attempts exceeded for root from 192.0.2.1 port 2 ssh2 [preauth]",
            "[root] 192.0.2.1 - FAILURE UNSPECIFIED PASSWORD",
        ),
        (
            "error: maximum authentication attempts exceeded for invalid user a b from 192.0.2.1 port 2 ssh2 [preauth]",
            "[a b] 192.0.2.1 false FAILURE UNKNOWN_ACCOUNT PASSWORD",
        ),
        (
            "pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.1  user=root",
            "[root] 192.0.2.1 - FAILURE WRONG_PASSWORD PASSWORD",
        ),
        (
            "pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.1 ",
            "[] 192.0.2.1 - FAILURE WRONG_PASSWORD PASSWORD",
        ),
        (
            "User root from 192.0.2.1 not allowed because not listed in AllowUsers",
            "[root] 192.0.2.1 - FAILURE ACCOUNT_DISABLED PASSWORD",
        ),
    ];
    for (message, want) in cases {
        check(&[message], &[want]);
    }
}

#[test]
fn what_is_no_attempt() {
    for message in [
        "Did not receive identification string from 192.0.2.1",
        "Server listening on 0.0.0.0 port 22.",
        "Connection closed by 192.0.2.1 port 22",
        "Disconnected from user eve 192.0.2.1 port 22",
        "Received disconnect from 192.0.2.1 port 22:11: disconnected by user",
        "fatal: Read from socket failed: Connection reset by peer [preauth]",
        "pam_unix(sshd:auth): check pass; user unknown",
        "pam_unix(sshd:session): session closed for user root",
        "input_userauth_request: invalid user bob [preauth]",
        "Failed password",
        "Failed password for",
        "Unable to negotiate with 192.0.2.1 port 22: no matching cipher found. Their offer: x [preauth]",
        "message repeated 2 times: [ Server listening on 0.0.0.0 port 22.]",
        "message repeated 2 times: [",
        "Failed password for root from 192.0.2.1 port x ssh2",
        "Invalid user x from ",
    ] {
        check(&[message], &[]);
    }
}

#[test]
fn a_client_cannot_put_another_address_in_place_of_its_own() {
    let failed = |name: &str| format!("[{name}] 192.0.2.1 false FAILURE UNKNOWN_ACCOUNT PASSWORD");
    for name in [
        "",
        " ",
        "a b",
        "x from 198.51.100.1 port 22",
        "x from 198.51.100.1 port 22 ssh2",
        " from 198.51.100.1 port 22 ssh2",
        "from",
        "root from",
        "invalid user x",
        "x [preauth]",
        "user for y from 198.51.100.1",
    ] {
        let want = failed(name);
        check(&[&format!("Failed password for invalid user {name} from 192.0.2.1 port 2 ssh2")], &[&want]);
        check(&[&format!("Invalid user {name} from 192.0.2.1 port 2")], &[&want]);
        check(&[&format!("Invalid user {name} from 192.0.2.1")], &[&want]);
        check(&[&format!("Connection closed by invalid user {name} 192.0.2.1 port 2 [preauth]")], &[&want]);
    }
    // The id of a certificate is the client's text too, and stands behind the address.
    let key =
        "Failed publickey for root from 192.0.2.1 port 2 ssh2: RSA-CERT SHA256:x ID y from 198.51.100.1 port 3 ssh2";
    check(&[key], &["[root] 192.0.2.1 true FAILURE UNSPECIFIED OTHER"]);
    let text = "Received disconnect from 192.0.2.1 port 2:11: from 198.51.100.1 port 3 [preauth]";
    check(&[text], &["[] 192.0.2.1 - FAILURE UNSPECIFIED PASSWORD"]);
    let text = "Disconnecting invalid user x 192.0.2.1 port 2: Change of username: y 198.51.100.1 port 3 [preauth]";
    check(&["Invalid user x from 192.0.2.1", text], &[&failed("x")]);
}

#[test]
fn lines_about_one_attempt_are_one_event() {
    let bob = "[bob] 192.0.2.1 false FAILURE UNKNOWN_ACCOUNT PASSWORD";
    let root = "[root] 192.0.2.1 true FAILURE WRONG_PASSWORD PASSWORD";
    let pam = "pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.1";
    let failed_bob = "Failed password for invalid user bob from 192.0.2.1 port 2 ssh2";
    let failed_root = "Failed password for root from 192.0.2.1 port 2 ssh2";
    let closed = "Connection closed by invalid user bob 192.0.2.1 port 2 [preauth]";
    check(
        &[
            "Invalid user bob from 192.0.2.1",
            "Failed none for invalid user bob from 192.0.2.1 port 2 ssh2",
            "pam_unix(sshd:auth): check pass; user unknown",
            pam,
            failed_bob,
            closed,
            "Disconnected from invalid user bob 192.0.2.1 port 2 [preauth]",
        ],
        &[bob],
    );
    check(&["Invalid user bob from 192.0.2.1", failed_bob, failed_bob, closed], &[bob, bob]);
    let (pam_root, pam_sss) = (format!("{pam}  user=root"), format!("{pam}  user=root").replace("unix", "sss"));
    check(&[&pam_root, &pam_sss, failed_root, "Connection closed by 192.0.2.1 [preauth]"], &[root]);
    check(
        &[&pam_root, failed_root, "message repeated 2 times: [ Failed password for root from 192.0.2.1 port 2 ssh2]"],
        &[root; 3],
    );
    let inside = format!("message repeated 4 times: [ Nov 30 06:39:00 host sshd[7]: {failed_root}]");
    check(&[failed_root, &inside], &[root; 5]);
    check(&[&inside], &[root; 4]);
    check(
        &[
            failed_root,
            "error: maximum authentication attempts exceeded for root from 192.0.2.1 port 2 ssh2 [preauth]",
            "Disconnecting authenticating user root 192.0.2.1 port 2: Too many authentication failures [preauth]",
        ],
        &[root],
    );
    let refused = "[root] 192.0.2.1 - FAILURE ACCOUNT_DISABLED PASSWORD";
    let failed = "Failed password for invalid user root from 192.0.2.1 port 2 ssh2";
    check(&["User root from 192.0.2.1 not allowed because not listed in AllowUsers", failed, failed], &[refused; 2]);
    let (accepted, success) =
        ("Accepted password for root from 192.0.2.1 port 2 ssh2", "[root] 192.0.2.1 - SUCCESS NONE PASSWORD");
    check(&["Failed none for root from 192.0.2.1 port 2 ssh2", accepted], &[success]);
    check(&[failed_root, accepted], &[root, success]);
    check(&["Did not receive identification string from 192.0.2.1", "Connection closed by 192.0.2.1 [preauth]"], &[]);
}

#[test]
fn a_process_id_is_used_again() {
    let nameless = "[] 192.0.2.1 - FAILURE UNSPECIFIED PASSWORD";
    let left = "Received disconnect from 192.0.2.1: 11: Bye Bye [preauth]";
    // The second line is the same process's, the third comes too late to be.
    let text = format!(
        "Nov 30 06:39:00 host sshd[7]: {left}\nNov 30 06:39:00 host sshd[7]: Disconnected from 192.0.2.1 [preauth]\nNov 30 06:40:00 host sshd[7]: {left}\n"
    );
    let seen = events(&text, options());
    assert_eq!(seen.iter().map(|(event, _)| told(event)).collect::<Vec<_>>(), [nameless; 2]);
    // A new line about an attempt begins a new process at once, under another id even within a second.
    check(
        &[left, "Invalid user bob from 192.0.2.2", left],
        &[nameless, "[bob] 192.0.2.2 false FAILURE UNKNOWN_ACCOUNT PASSWORD"],
    );
    let text = "Nov 30 06:39:00 h sshd[7]: Failed password for root from 192.0.2.1 port 2 ssh2\n".repeat(3);
    let mut ids: Vec<String> = events(&text, options()).into_iter().map(|(event, _)| event.event_id).collect();
    assert!(ids.iter().all(|id| id.len() == 32));
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[test]
fn a_waiting_attempt_is_given_up_after_silence_and_never_lost() {
    let text = "Nov 30 06:39:00 h sshd[7]: Invalid user bob from 192.0.2.1\nNov 30 06:50:00 h sshd[8]: Server listening on 0.0.0.0 port 22.\n";
    let seen = events(text, options());
    let times: Vec<(String, String)> =
        seen.iter().map(|(event, arrival)| (format_millis(event.occurred_at), format_millis(*arrival))).collect();
    assert_eq!(times, [("2014-11-30T06:39:00.000Z".to_owned(), "2014-11-30T06:50:00.000Z".to_owned())]);
    let many: String = (0..PROCESSES_MAX + 50)
        .map(|pid| format!("Nov 30 06:39:00 h sshd[{pid}]: Invalid user u{pid} from 192.0.2.1\n"))
        .collect();
    assert_eq!(events(&many, options()).len(), PROCESSES_MAX + 50);
}

#[test]
fn an_attempt_has_the_time_of_its_first_line_and_arrives_with_its_last() {
    let text = "Nov 30 06:39:00 h sshd[7]: Invalid user bob from 192.0.2.1\nNov 30 06:39:04 h sshd[7]: Failed password for invalid user bob from 192.0.2.1 port 2 ssh2\nNov 30 06:39:02 h sshd[8]: Failed password for root from 192.0.2.1 port 2 ssh2\n";
    let seen = events(text, options());
    let start = wire::parse_millis("2014-11-30T06:39:00Z").unwrap();
    let times: Vec<(Millis, Millis)> = seen.iter().map(|(event, at)| (event.occurred_at - start, at - start)).collect();
    assert_eq!(times, [(0, 4000), (2000, 4000)], "arrival never goes back");
}

fn check_times(stamps: &[&str], options: SshdOptions, want: &[&str]) {
    let text: String = stamps
        .iter()
        .map(|stamp| format!("{stamp} host sshd-session[7]: Failed password for root from 192.0.2.1 port 2 ssh2\n"))
        .collect();
    let seen: Vec<String> = events(&text, options).iter().map(|(event, _)| format_millis(event.occurred_at)).collect();
    assert_eq!(seen, want, "{stamps:?}");
}

#[test]
fn stamps_become_times() {
    check_times(
        &["Nov 30 06:39:00", "Dec  2 13:14:29"],
        options(),
        &["2014-11-30T06:39:00.000Z", "2014-12-02T13:14:29.000Z"],
    );
    check_times(&["<38>Nov  3 06:39:00.25"], options(), &["2014-11-03T06:39:00.250Z"]);
    check_times(&["2024-05-01T12:00:00.123456+02:00"], options(), &["2024-05-01T10:00:00.123Z"]);
    let zone = SshdOptions { zone_minutes: 120, ..options() };
    check_times(
        &["Jan  1 01:00:00", "2024-05-01T12:00:00", "2024-05-01T12:00:00Z"],
        zone,
        &["2013-12-31T23:00:00.000Z", "2024-05-01T10:00:00.000Z", "2024-05-01T12:00:00.000Z"],
    );
    check_times(&["Feb 29 00:00:01"], options(), &["2014-03-01T00:00:01.000Z"]);
    check_times(&["Nov 31 00:00:00", "Nov 30 24:00:00", "Nov 30 1:2", "Foo 1 01:00:00"], options(), &[]);
}

#[test]
fn new_year_advances_the_year_and_a_late_line_does_not_take_it_back() {
    check_times(
        &["Dec 31 23:59:59", "Jan  1 00:00:00", "Dec 31 23:59:58", "Jan  1 00:00:02", "Dec 30 00:00:00"],
        options(),
        &[
            "2014-12-31T23:59:59.000Z",
            "2015-01-01T00:00:00.000Z",
            "2014-12-31T23:59:58.000Z",
            "2015-01-01T00:00:02.000Z",
            "2014-12-30T00:00:00.000Z",
        ],
    );
    check_times(
        &["Jun  1 00:00:00", "Nov  1 00:00:00", "Jan 31 00:00:00"],
        options(),
        &["2014-06-01T00:00:00.000Z", "2014-11-01T00:00:00.000Z", "2015-01-31T00:00:00.000Z"],
    );
}

#[test]
fn without_a_year_it_is_the_latest_that_is_not_in_the_future() {
    let now = |text: &str| SshdOptions { now: wire::parse_millis(text).unwrap(), ..SshdOptions::default() };
    check_times(&["Nov 30 06:39:00"], now("2025-11-24T05:00:00Z"), &["2024-11-30T06:39:00.000Z"]);
    check_times(&["Nov 24 12:00:00"], now("2025-11-24T05:00:00Z"), &["2025-11-24T12:00:00.000Z"]);
    check_times(&["Jan  1 01:00:00"], now("2025-12-31T23:00:00Z"), &["2026-01-01T01:00:00.000Z"]);
    check_times(
        &["Dec 31 23:00:00", "Jan  1 01:00:00"],
        now("2026-01-01T02:00:00Z"),
        &["2025-12-31T23:00:00.000Z", "2026-01-01T01:00:00.000Z"],
    );
}

#[test]
fn every_event_names_host_application_and_tenant() {
    let options = SshdOptions { tenant: "ops".to_owned(), ..options() };
    let text = "Nov 30 06:39:00 bastion sshd[7]: Invalid user bob from 192.0.2.1\nNov 30 06:39:00 bastion cron[7]: Invalid user x from 192.0.2.1";
    let (event, _) = events(text, options).pop().unwrap();
    assert_eq!((event.tenant.as_str(), event.application.as_deref()), ("ops", Some("ssh")));
    assert_eq!(event.attributes.get("host").map(String::as_str), Some("bastion"));
}

/// As the real file has them: a key-only host of 2014 at the default log level.
#[test]
fn a_key_only_host() {
    let text = "\
Nov 30 06:39:00 ip-172-31-27-153 CRON[21882]: pam_unix(cron:session): session closed for user root
Nov 30 07:07:14 ip-172-31-27-153 sshd[22116]: Connection closed by 122.225.103.87 [preauth]
Nov 30 07:07:35 ip-172-31-27-153 sshd[22118]: Connection closed by 122.225.103.87 [preauth]
Nov 30 08:17:01 ip-172-31-27-153 CRON[22172]: pam_unix(cron:session): session opened for user root by (uid=0)
Nov 30 08:42:04 ip-172-31-27-153 sshd[22182]: Invalid user admin from 187.12.249.74
Nov 30 08:42:04 ip-172-31-27-153 sshd[22182]: input_userauth_request: invalid user admin [preauth]
Nov 30 08:42:04 ip-172-31-27-153 sshd[22182]: Received disconnect from 187.12.249.74: 11: Bye Bye [preauth]
Nov 30 08:42:14 ip-172-31-27-153 sshd[22184]: Did not receive identification string from 187.12.249.74
Nov 30 10:58:27 ip-172-31-27-153 sshd[22291]: Invalid user admin from 122.225.109.208
Nov 30 10:58:27 ip-172-31-27-153 sshd[22291]: input_userauth_request: invalid user admin [preauth]
Nov 30 10:58:27 ip-172-31-27-153 sshd[22291]: Connection closed by 122.225.109.208 [preauth]
Nov 30 11:54:50 ip-172-31-27-153 sshd[22341]: fatal: Read from socket failed: Connection reset by peer [preauth]
Nov 30 13:59:21 ip-172-31-27-153 sshd[22430]: Received disconnect from 62.210.172.145: 11:  [preauth]
Nov 30 14:10:00 ip-172-31-27-153 sshd[22500]: reverse mapping checking getaddrinfo for ns.local [187.76.80.202] failed - POSSIBLE BREAK-IN ATTEMPT!
Nov 30 14:10:00 ip-172-31-27-153 sshd[22500]: Invalid user admin  from 187.76.80.202
Nov 30 14:10:00 ip-172-31-27-153 sshd[22500]: input_userauth_request: invalid user admin  [preauth]
Nov 30 14:10:01 ip-172-31-27-153 sshd[22500]: Received disconnect from 187.76.80.202: 11: Bye Bye [preauth]
Nov 30 14:10:04 ip-172-31-27-153 sshd[22502]: Invalid user test from 187.76.80.202
Nov 30 14:10:04 ip-172-31-27-153 sshd[22502]: input_userauth_request: invalid user test [preauth]
Nov 30 14:10:04 ip-172-31-27-153 sshd[22502]: fatal: Read from socket failed: Connection reset by peer [preauth]
Nov 30 14:11:00 ip-172-31-27-153 sshd[22504]: warning: can't get client address: Connection reset by peer
Nov 30 14:11:00 ip-172-31-27-153 sshd[22504]: Could not write ident string to UNKNOWN
Dec  2 13:14:29 ip-172-31-27-153 sshd[6530]: Invalid user test from 218.25.17.234
Dec  2 13:14:29 ip-172-31-27-153 sshd[6530]: input_userauth_request: invalid user test [preauth]
Dec  2 13:14:2";
    let seen = events(text, options());
    let names: Vec<(&str, &str)> =
        seen.iter().map(|(event, _)| (event.account.as_str(), event.source_ip.as_str())).collect();
    assert_eq!(
        names,
        [
            ("", "122.225.103.87"),
            ("", "122.225.103.87"),
            ("admin", "187.12.249.74"),
            ("admin", "122.225.109.208"),
            ("", "62.210.172.145"),
            ("admin ", "187.76.80.202"),
            ("test", "187.76.80.202"),
            ("test", "218.25.17.234"),
        ]
    );
    assert!(seen.iter().all(|(event, _)| event.outcome == crate::event::Outcome::Failure));
    assert!(seen.is_sorted_by_key(|(_, arrival)| *arrival));
}
