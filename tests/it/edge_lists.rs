//! The list route: what is pulled is what a real nginx and a real nft take.

use std::process::{Command, Stdio};

use portcullis::event::{Action, Millis, Scope};

use crate::support::edge::{Edge, KEY, START, Teller};
use crate::support::kafka::shared;
use crate::support::nginx::Nginx;
use crate::support::records::{DEADLINE, connection_with_topics};
use crate::support::until;

const HOUR: Millis = 3_600_000;

#[test]
fn a_list_is_pulled_as_its_reader_wants_it_and_only_when_it_changed() {
    let connection = connection_with_topics(shared().bootstrap(), "edge-lists");
    let teller = Teller::new(&connection);
    teller.restrict(Scope::Ip, "203.0.113.9", Action::Block, Some(START + HOUR), 1);
    teller.restrict(Scope::Ip, "203.0.113.10", Action::Challenge, None, 1);
    teller.restrict(Scope::Cidr, "192.0.2.0/24", Action::Block, None, 1);
    teller.restrict(Scope::Cidr, "2001:db8:1:2::/64", Action::Block, None, 1);
    teller.restrict(Scope::Ip, "192.0.2.7", Action::Block, None, 1);
    teller.restrict(Scope::Account, "ada", Action::LockAccount, None, 1);
    let edge = Edge::start(&connection, "");
    edge.until_ready();
    let list = |format: &str| edge.get(&format!("/v1/blocklist?format={format}"));
    let text = edge.get("/v1/blocklist");
    assert_eq!(text.body, "192.0.2.0/24\n192.0.2.7\n203.0.113.9\n2001:db8:1:2::/64\n");
    assert!(!list("json").body.contains("ada"), "names of accounts are no addresses");
    for (path, headers, status) in [
        ("/v1/blocklist", &[][..], 401),
        ("/v1/blocklist?format=csv", &[("X-Api-Key", KEY)], 400),
        ("/v1/blocklist?fromat=text", &[("X-Api-Key", KEY)], 400),
    ] {
        assert_eq!(edge.ask("GET", path, headers, "").status, status, "{path}");
    }

    // Another instance has the same tag, and a reader that has the list is told so.
    let tag = text.header("etag").unwrap();
    let other = Edge::start(&connection, "");
    other.until_ready();
    let again =
        |edge: &Edge, tag: &str| edge.ask("GET", "/v1/blocklist", &[("X-Api-Key", KEY), ("If-None-Match", tag)], "");
    for held in [tag, &format!("\"x\", W/{tag}"), "*"] {
        let reply = again(&other, held);
        assert_eq!((reply.status, &*reply.body, reply.header("etag")), (304, "", Some(tag)), "{held}");
    }
    assert_eq!(again(&other, "\"x\"").status, 200);

    // nginx and the kernel take what they are given.
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("pulled.geo");
    std::fs::write(&file, list("nginx").body).unwrap();
    let nginx = Nginx::start(&file);
    assert_eq!(["203.0.113.9", "192.0.2.200", "203.0.113.10"].map(|ip| nginx.status_for(ip)), [403, 403, 200]);
    let sets = in_a_kernel(&list("nft").body);
    assert!(
        sets.contains("192.0.2.0/24") && sets.contains("203.0.113.9") && sets.contains("2001:db8:1:2::/64"),
        "{sets}"
    );
    assert!(!sets.contains("203.0.113.10"), "{sets}");

    // By the clock alone.
    edge.pass(HOUR);
    assert_eq!(again(&edge, tag).body, "192.0.2.0/24\n192.0.2.7\n2001:db8:1:2::/64\n");
    teller.lift(Scope::Ip, "192.0.2.7", 2);
    until(DEADLINE, "the lift", || (!edge.get("/v1/blocklist").body.contains("192.0.2.7")).then_some(()));
}

/// Takes a script in a network namespace of its own, twice as a reader does, and lists what the kernel has then.
fn in_a_kernel(script: &str) -> String {
    use std::io::Write;
    let run = "cat > \"$0\" && nft -f \"$0\" && nft -f \"$0\" && nft list ruleset";
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("script.nft");
    let mut nft = Command::new("unshare")
        .args(["-rn", "sh", "-c", run])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    nft.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = nft.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
