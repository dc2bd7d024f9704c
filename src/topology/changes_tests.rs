use super::*;
use crate::event::AttackState;
use crate::topology::{Measure, WINDOWS_MAX};

const NOW: Millis = 1_800_000_000_000;
const MINUTE: Millis = 60_000;

/// So many failures of one address within `over`.
fn text(id: &str, version: i32, over: &str, failures: u32) -> String {
    format!(
        "id: {id}\nversion: {version}\nowner: us\ndescription: of a test\nmode: live\nfinding: account_fanout\n\
         per: address\nover: {over}\ntrigger: {{failures: {{at_least: {failures}}}}}\n\
         then: {{action: BLOCK, ladder: [15m]}}\n"
    )
}

fn change(text: &str, at: Millis, lasting: Option<Millis>) -> PlaybookChange {
    PlaybookChange {
        text: text.into(),
        actor: "ann".into(),
        reason: "a test".into(),
        at,
        expires_at: lasting.map(|ms| at + ms),
    }
}

fn folder(texts: &[String]) -> PlaybookSet {
    let playbooks: Vec<Playbook> = texts.iter().map(|text| Playbook::parse(text).unwrap()).collect();
    assert!(check(&playbooks).is_empty());
    let plan = Plan::compile(&playbooks).unwrap();
    PlaybookSet::new(playbooks.into(), plan)
}

/// Id, version and bound of every playbook in effect.
fn seen(set: &PlaybookSet, now: Millis) -> Vec<(String, i32, f64)> {
    let bound = |p: &Playbook| p.trigger[&Measure::Failures].at_least.unwrap().at(AttackState::Calm);
    let effective = set.effective(now);
    assert!(effective.left_out.is_empty(), "{:?}", effective.left_out);
    effective.playbooks.iter().map(|p| (p.id.clone(), p.version, bound(p))).collect()
}

fn is(id: &str, version: i32, bound: f64) -> (String, i32, f64) {
    (id.to_owned(), version, bound)
}

#[test]
fn what_stands_on_the_topic_replaces_the_folder_s_or_adds_one_and_a_tombstone_takes_it_back() {
    let mut set = folder(&[text("a", 1, "10m", 10)]);
    assert_eq!(set.apply("a", 0, Some(&change(&text("a", 2, "10m", 5), NOW, None))).map(|a| a.is_changed), Ok(true));
    assert_eq!(set.apply("b", 1, Some(&change(&text("b", 1, "10m", 7), NOW, None))).map(|a| a.is_changed), Ok(true));
    assert_eq!(seen(&set, NOW), [is("a", 2, 5.0), is("b", 1, 7.0)]);
    assert_eq!(set.effective(NOW).until, Millis::MAX);
    for (key, offset) in [("a", 2), ("b", 3), ("b", 4)] {
        set.apply(key, offset, None).unwrap();
    }
    assert_eq!(seen(&set, NOW), [is("a", 1, 10.0)]);
    assert_eq!((set.held().count(), set.bytes), (0, 0));
}

#[test]
fn an_override_holds_until_its_time_and_then_the_base_is_back_whatever_it_was_changed_to() {
    let mut set = folder(&[text("a", 1, "10m", 10)]);
    let over = change(&text("a", 2, "5m", 3), NOW, Some(30 * MINUTE));
    set.apply("a#override", 0, Some(&over)).unwrap();
    let end = NOW + 30 * MINUTE;
    assert_eq!((seen(&set, NOW), set.effective(NOW).until), (vec![is("a", 2, 3.0)], end));
    assert_eq!(seen(&set, end - 1), [is("a", 2, 3.0)]);
    assert_eq!((seen(&set, end), set.effective(end).until), (vec![is("a", 1, 10.0)], Millis::MAX));
    // What it lies over is kept meanwhile, so that it has not forgotten anything when it comes back.
    let windows = |now| set.effective(now).plan.address.windows.iter().map(|w| w.over_ms).collect::<Vec<_>>();
    assert_eq!((windows(NOW), windows(end)), (vec![5 * MINUTE, 10 * MINUTE], vec![10 * MINUTE]));

    set.apply("a", 1, Some(&change(&text("a", 3, "10m", 8), NOW, None))).unwrap();
    assert_eq!((seen(&set, NOW), seen(&set, end)), (vec![is("a", 2, 3.0)], vec![is("a", 3, 8.0)]));
    set.apply("a#override", 2, None).unwrap();
    assert_eq!(seen(&set, NOW), [is("a", 3, 8.0)]);
}

#[test]
fn no_two_versions_of_a_playbook_are_the_same_and_different() {
    let mut set = folder(&[text("a", 4, "10m", 10)]);
    let refused = |set: &mut PlaybookSet, key: &str, version: i32, lasting: Option<Millis>| {
        let before: Vec<_> = set.held().map(|(key, held)| (key.to_owned(), held.clone())).collect();
        let refused = set.apply(key, 9, Some(&change(&text("a", version, "10m", 6), NOW, lasting))).unwrap_err();
        let after: Vec<_> = set.held().map(|(key, held)| (key.to_owned(), held.clone())).collect();
        assert_eq!(after, before);
        refused
    };
    for version in [3, 4] {
        assert!(refused(&mut set, "a", version, None).contains("write `version: 5`"));
    }
    set.apply("a#override", 0, Some(&change(&text("a", 5, "10m", 3), NOW, Some(MINUTE)))).unwrap();
    let words = refused(&mut set, "a", 5, None);
    assert!(words.contains("in its override") && words.contains("write `version: 6`"), "{words}");
    // Ended or not: what it said may still be read.
    let words = refused(&mut set, "a#override", 5, Some(2 * MINUTE));
    assert!(words.contains("write `version: 6`"), "{words}");
    // The same once more changes nothing, longer is longer, and what proved itself may stay.
    let same = change(&text("a", 5, "10m", 3), NOW, Some(MINUTE));
    assert_eq!(set.apply("a#override", 1, Some(&same)), Ok(Applied::default()));
    let longer = change(&text("a", 5, "10m", 3), NOW, Some(5 * MINUTE));
    assert!(set.apply("a#override", 2, Some(&longer)).unwrap().is_changed);
    assert!(set.apply("a", 3, Some(&change(&text("a", 5, "10m", 3), NOW, None))).unwrap().is_changed);
}

#[test]
fn what_does_not_go_with_the_others_is_not_taken_and_nothing_changes() {
    let mut set = folder(&[text("a", 1, "10m", 10)]);
    for n in 1..WINDOWS_MAX {
        let (id, over) = (format!("b{n}"), format!("{}m", 10 + n));
        set.apply(&id, n as i64, Some(&change(&text(&id, 1, &over, 7), NOW, None))).unwrap();
    }
    let before = seen(&set, NOW);
    let words = set.apply("e", 20, Some(&change(&text("e", 1, "40m", 7), NOW, None))).unwrap_err();
    assert!(words.contains("windows, by `over`"), "{words}");
    // An override needs room for its own window and for the one that comes back.
    let words = set.apply("a#override", 21, Some(&change(&text("a", 2, "40m", 7), NOW, Some(MINUTE)))).unwrap_err();
    assert!(words.contains("keeps the windows of what it replaces"), "{words}");
    let everybody = text("f", 1, "10m", 7)
        .replace("mode: live", "mode: live\nfailures_of: everybody")
        .replace("BLOCK, ladder: [15m]", "NOTIFY");
    assert!(set.apply("f", 5, Some(&change(&everybody, NOW, None))).unwrap_err().contains("failures_of"));
    assert_eq!(seen(&set, NOW), before);
}

#[test]
fn whose_failures_count_does_not_change_while_it_runs_but_everything_may_be_switched_off() {
    let off = |id: &str| text(id, 2, "10m", 7).replace("mode: live", "mode: off");
    let mut set = folder(&[text("a", 1, "10m", 10)]);
    set.apply("a", 0, Some(&change(&off("a"), NOW, None))).unwrap();
    assert!(set.effective(NOW).plan.address.is_empty());
    let everybody = text("b", 1, "10m", 7)
        .replace("mode: live", "mode: live\nfailures_of: everybody")
        .replace("BLOCK, ladder: [15m]", "NOTIFY");
    let words = set.apply("b", 1, Some(&change(&everybody, NOW, None))).unwrap_err();
    assert!(words.contains("cannot change while it runs"), "{words}");
    let mut alone = folder(std::slice::from_ref(&everybody));
    assert!(alone.effective(NOW).plan.failures_alone);
    alone
        .apply("b", 0, Some(&change(&everybody.replace("version: 1", "version: 2").replace("live", "off"), NOW, None)))
        .unwrap();
    // Intake passes on failures alone, whatever is switched off behind it.
    assert!(alone.effective(NOW).plan.failures_alone);
}

/// After a restart with another folder, what was taken may not go with it; in the order of the topic, what goes goes.
#[test]
fn a_folder_that_changed_leaves_out_what_does_not_go_with_it_and_nothing_else() {
    let texts: Vec<String> = (1..WINDOWS_MAX).map(|n| text(&format!("a{n}"), 1, &format!("{}m", 9 + n), 10)).collect();
    let mut set = folder(&texts);
    for (offset, (id, over)) in [(7, ("c", "40m")), (3, ("b", "41m"))] {
        set.restore(id, offset, &change(&text(id, 1, over, 7), NOW, None)).unwrap();
    }
    let effective = set.effective(NOW);
    assert_eq!(effective.playbooks.last().map(|p| p.id.as_str()), Some("b"));
    let left: Vec<&str> = effective.left_out.iter().map(|(key, _)| &**key).collect();
    assert_eq!((left, effective.playbooks.len()), (vec!["c"], WINDOWS_MAX));
    assert!(set.restore("c", 8, &change("id: [", NOW, None)).is_err());
}

#[test]
fn the_topic_is_bounded_and_overrides_that_ended_make_room() {
    let mut set = folder(&[]);
    let off = |n: usize| text(&format!("p{n}"), 1, "10m", 7).replace("mode: live", "mode: off");
    for n in 0..PLAYBOOKS_MAX - 1 {
        // As taken before: whether they go together is not the question here.
        set.restore(&format!("p{n}"), n as i64, &change(&off(n), NOW, None)).unwrap();
    }
    let over = change(&text("a", 1, "10m", 3), NOW, Some(MINUTE));
    set.apply("a#override", 2_000, Some(&over)).unwrap();
    let one_more = |at: Millis| change(&off(5_000), at, None);
    let words = set.apply("p5000", 2_001, Some(&one_more(NOW + 1))).unwrap_err();
    assert!(words.contains("remove some"), "{words}");
    let applied = set.apply("p5000", 2_002, Some(&one_more(NOW + MINUTE))).unwrap();
    assert_eq!(applied, Applied { is_changed: true, ended: vec!["a#override".into()] });
    assert_eq!(set.held().count(), PLAYBOOKS_MAX);

    let mut set = folder(&[]);
    let long = |n: usize| format!("{}# {}\n", off(n), "x".repeat(PLAYBOOK_BYTES_MAX - 1_000));
    let most = CHANGES_BYTES_MAX / PLAYBOOK_BYTES_MAX;
    let taken =
        (0..most + 5).filter(|n| set.apply(&format!("p{n}"), *n as i64, Some(&change(&long(*n), NOW, None))).is_ok());
    assert_eq!(taken.count(), most);
    assert!(set.bytes <= CHANGES_BYTES_MAX);
}

#[test]
fn records_that_cannot_be_taken_are_refused_with_the_reason() {
    let good = text("a", 2, "10m", 7);
    let read = |key: &[u8], value: &[u8], headers: &[(&str, &[u8])]| {
        let find = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, value)| *value);
        read_change(Some(key), Some(value), find, NOW)
    };
    let who: [(&str, &[u8]); 2] = [("actor", b"ann"), ("reason", b"a test")];
    let with = |more: &[(&'static str, &'static [u8])]| [&who[..], more].concat();
    let (key, taken) = read(b"a", good.as_bytes(), &with(&[("version", b"2")])).unwrap();
    assert_eq!((&*key, taken.unwrap()), ("a", change(&good, NOW, None)));
    let end = format_millis(NOW + MINUTE);
    let end: &'static [u8] = Box::leak(end.into_bytes().into_boxed_slice());
    for end in [end, Box::leak((NOW + MINUTE).to_string().into_bytes().into_boxed_slice())] {
        let (_, taken) = read(b"a#override", good.as_bytes(), &with(&[("expires_at", end)])).unwrap();
        assert_eq!(taken.unwrap().expires_at, Some(NOW + MINUTE));
    }
    assert_eq!(read_change(Some(b"a"), None, |_| None, NOW), Ok(("a".into(), None)));

    let long = vec![b'x'; PLAYBOOK_BYTES_MAX + 1];
    let deep = "[".repeat(20_000);
    let aliases = format!("id: &a [{}]\nversion: [{}]\n", "x,".repeat(1_000), "*a,".repeat(10_000));
    type Case<'a> = (&'a [u8], &'a [u8], Vec<(&'a str, &'a [u8])>, &'a str);
    let cases: Vec<Case<'_>> = vec![
        (b"", good.as_bytes(), with(&[]), "key"),
        (b"A b", good.as_bytes(), with(&[]), "key"),
        (b"\xff", good.as_bytes(), with(&[]), "key"),
        (b"b", good.as_bytes(), with(&[]), "the text is of `a`"),
        (b"a#override", good.as_bytes(), with(&[]), "says when it ends"),
        (b"a", good.as_bytes(), with(&[("expires_at", end)]), "`a#override`"),
        (b"a#override", good.as_bytes(), with(&[("expires_at", b"soon")]), "RFC 3339"),
        (b"a#override", good.as_bytes(), with(&[("expires_at", b"1")]), "before it begins"),
        (b"a#override", good.as_bytes(), with(&[("expires_at", b"253402300799000")]), "at most 31d"),
        (b"a#override", good.as_bytes(), with(&[("expires_at", b"9223372036854775807")]), "RFC 3339"),
        (b"a", good.as_bytes(), with(&[("version", b"3")]), "the text has version 2"),
        (b"a", good.as_bytes(), vec![("actor", b"ann")], "`reason`"),
        (b"a", good.as_bytes(), vec![("actor", b" "), ("reason", b"a test")], "`actor`"),
        (b"a", good.as_bytes(), vec![("actor", b"\xff"), ("reason", b"a test")], "`actor`"),
        (b"a", b"", with(&[]), ""),
        (b"a", b"\xff\xfe", with(&[]), "not UTF-8"),
        (b"a", &long, with(&[]), "bytes of text"),
        (b"a", deep.as_bytes(), with(&[]), ""),
        (b"a", aliases.as_bytes(), with(&[]), ""),
        (b"a", b"id: a\nversion: 2\n\x00", with(&[]), ""),
    ];
    for (key, value, headers, words) in cases {
        let why = read(key, value, &headers).unwrap_err();
        assert!(why.contains(words), "{words} is not in: {why}");
        assert!(why.len() < 5_000 && !why.contains('\n'), "{why}");
    }
}

/// The order in which overrides end is nobody's choice: what went together need not when one of them is over.
#[test]
fn overrides_that_do_not_go_together_any_more_leave_the_later_one_out() {
    let ids = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let texts: Vec<String> = (0..WINDOWS_MAX - 1).map(|n| text(ids[n], 1, &format!("{}m", 10 + n), 9)).collect();
    let mut set = folder(&texts);
    // One window is left, which two overrides want.
    set.apply("a#override", 1, Some(&change(&text("a", 2, "20m", 5), NOW, Some(MINUTE)))).unwrap();
    let words = set.apply("b#override", 2, Some(&change(&text("b", 2, "30m", 5), NOW, Some(9 * MINUTE)))).unwrap_err();
    assert!(words.contains("windows, by `over`"), "{words}");
    // At a time when the first has ended there is room.
    set.apply("b#override", 3, Some(&change(&text("b", 2, "30m", 5), NOW + MINUTE, Some(9 * MINUTE)))).unwrap();
    // Whoever is behind hears it before the first has ended there.
    let effective = set.effective(NOW);
    let left: Vec<&str> = effective.left_out.iter().map(|(key, _)| &**key).collect();
    assert_eq!(left, ["b#override"]);
    assert!(set.effective(NOW + MINUTE).left_out.is_empty());
}
