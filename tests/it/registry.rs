//! The registry's protocol against a real one.

use portcullis::event::wire::WriterSchema;
use portcullis::log::registry::{Lookup, Registry, RegistryOptions, register, register_outputs};

use crate::support::registry::shared;

fn word(lookup: &Lookup) -> &'static str {
    match lookup {
        Lookup::Known(schema) if matches!(**schema, WriterSchema::Bundled) => "bundled",
        Lookup::Known(_) => "other",
        Lookup::Unknown => "unknown",
        Lookup::Unavailable => "unavailable",
    }
}

#[test]
fn output_schemas_get_ids_and_keep_them() {
    let ids = register_outputs(&shared(), "outputs.").unwrap();
    assert_eq!(register_outputs(&shared(), "outputs.").unwrap(), ids);
    let mut all = [ids.verdict, ids.blocklist_entry, ids.attack_status, ids.incident, ids.receipt];
    let mut registry = Registry::new(Some(shared()), &[]);
    assert!(all.iter().all(|id| word(&registry.get(*id, 0)) == "other"));
    all.sort_unstable();
    assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "{all:?}");
}

#[test]
fn what_publishers_registered_is_found_by_its_id_and_nothing_else_is() {
    let bundled = register(&shared(), "found.login-events-value", WriterSchema::BUNDLED_TEXT).unwrap();
    let later = WriterSchema::BUNDLED_TEXT.replacen(
        "\"fields\": [",
        "\"fields\": [ {\"name\": \"added\", \"type\": [\"null\", \"string\"], \"default\": null},",
        1,
    );
    let later = register(&shared(), "found.login-events-value", &later).unwrap();
    let mut registry = Registry::new(Some(shared()), &[]);
    assert_eq!(word(&registry.get(bundled, 0)), "bundled");
    assert_eq!(word(&registry.get(later, 0)), "other");
    assert_eq!(word(&registry.get(987_654_321, 0)), "unknown");
    assert_eq!(registry.status().failures, 0);
}

#[test]
fn a_schema_that_the_registry_refuses_is_told_with_its_reason() {
    let error = register(&shared(), "refused-value", "{\"type\": \"no such type\"}").unwrap_err().to_string();
    assert!(error.starts_with("refused-value: it answers 422"), "{error}");
}

#[test]
fn an_address_of_something_else_makes_no_id_unknown() {
    let wrong = RegistryOptions::new(&shared().url.replace("/apis/ccompat/v7", "/apis/elsewhere"));
    let mut registry = Registry::new(Some(wrong.clone()), &[]);
    assert_eq!(word(&registry.get(1, 0)), "unavailable");
    let error = register_outputs(&wrong, "").unwrap_err().to_string();
    assert!(error.contains("the address may be wrong"), "{error}");
}
