//! The public contract: every schema parses, no version breaks another, every example fits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use apache_avro::Schema;
use apache_avro::schema_compatibility::{Compatibility, SchemaCompatibility};
use serde_json::Value;

use crate::support::repository;

/// Records that others publish: today's schema must read what any earlier one wrote. All others are outputs.
const INPUTS: [&str; 3] = ["login-event", "exemption", "command"];

/// Names of enums that a newer publisher may fill with symbols we do not know; only there may an example do so.
const EXAMPLES_WITH_UNKNOWN_SYMBOLS: [&str; 1] = ["login-event/unknown-symbols"];

#[test]
fn every_schema_parses_and_says_what_its_fields_mean() {
    for (name, text) in schemas_of(&folder()) {
        parse(&name, &text);
        let json = json(&name, &text);
        assert_eq!(json["namespace"], "portcullis.v1", "{name}");
        assert!(json["doc"].as_str().is_some_and(|doc| doc.contains("Topic: ")), "{name}: `doc` names no topic");
        walk_enums(&json, &mut |enumeration| {
            let (symbols, default) = (symbols(enumeration), enumeration["default"].as_str());
            assert!(
                default.is_some_and(|default| symbols.contains(&default)),
                "{name}: enum {} needs a default among its symbols, for readers of today and symbols of tomorrow",
                enumeration["name"]
            );
        });
    }
}

#[test]
fn enums_of_one_name_have_the_same_symbols_everywhere() {
    let mut seen: BTreeMap<String, (String, Value)> = BTreeMap::new();
    for (name, text) in schemas_of(&folder()) {
        walk_enums(&json(&name, &text), &mut |enumeration| {
            let key = enumeration["name"].as_str().expect("a name").to_owned();
            let (first, symbols) = seen.entry(key.clone()).or_insert((name.clone(), enumeration["symbols"].clone()));
            assert_eq!(*symbols, enumeration["symbols"], "enum {key} differs between {first} and {name}");
        });
    }
}

#[test]
fn no_version_breaks_another() {
    let today: BTreeMap<String, String> = schemas_of(&folder()).into_iter().collect();
    let mut frozen = BTreeMap::new();
    for version in versions() {
        for (name, text) in schemas_of(&version) {
            let place = format!("{}/{name}", version.file_name().unwrap().to_string_lossy());
            let now = today.get(&name).unwrap_or_else(|| panic!("{place} has no successor: nothing is ever removed"));
            check_pair(&name, &place, &text, now);
            frozen.insert(name, text);
        }
    }
    for (name, text) in today {
        let last = frozen.get(&name).map(|last| json(&name, last));
        assert_eq!(
            last,
            Some(json(&name, &text)),
            "{name}.avsc differs from its newest frozen version; when the change is meant, copy it into a new folder of \
             schemas/history (v1 may still be overwritten until the first release)"
        );
    }
}

#[track_caller]
fn check_pair(name: &str, place: &str, then: &str, now: &str) {
    let (old, new) = (parse(place, then), parse(name, now));
    let reads = SchemaCompatibility::can_read(&old, &new);
    assert_eq!(reads.ok(), Some(Compatibility::Full), "{name} of today cannot read what {place} wrote");
    if !INPUTS.contains(&name) {
        let reads = SchemaCompatibility::can_read(&new, &old);
        assert_eq!(reads.ok(), Some(Compatibility::Full), "a reader of {place} cannot read {name} of today");
    }
    let (then, now) = (json(place, then), json(name, now));
    for field in then["fields"].as_array().expect("fields") {
        let successor = now["fields"].as_array().expect("fields").iter().find(|new| new["name"] == field["name"]);
        let successor = successor.unwrap_or_else(|| panic!("{name}: field {} of {place} is gone", field["name"]));
        assert_eq!(field["default"], successor["default"], "{name}: default of {} changed", field["name"]);
    }
    let mut enums = BTreeMap::new();
    walk_enums(&now, &mut |enumeration| {
        enums.insert(enumeration["name"].to_string(), enumeration["symbols"].clone());
    });
    walk_enums(&then, &mut |enumeration| {
        let before = enumeration["symbols"].as_array().expect("symbols");
        let after = enums.get(&enumeration["name"].to_string()).and_then(Value::as_array);
        let kept = after.is_some_and(|after| after.starts_with(before));
        assert!(kept, "{name}: symbols of {} are only ever added at the end", enumeration["name"]);
    });
}

#[test]
fn every_example_fits_its_schema() {
    let mut seen = 0;
    for record in folders_of(&folder().join("examples")) {
        let name = record.file_name().unwrap().to_string_lossy().into_owned();
        let schema = read(&folder().join(format!("{name}.avsc")));
        for file in files_of(&record, "json") {
            let case = format!("{name}/{}", file.file_stem().unwrap().to_string_lossy());
            let mut fit = Fit {
                case: &case,
                named: BTreeMap::new(),
                unknown_symbols_allowed: EXAMPLES_WITH_UNKNOWN_SYMBOLS.contains(&case.as_str()),
                faults: Vec::new(),
            };
            fit.check("", &json(&name, &schema), &json(&case, &read(&file)));
            assert!(fit.faults.is_empty(), "{}", fit.faults.join("\n"));
            seen += 1;
        }
    }
    assert!(seen >= 15, "{seen} examples found");
}

/// Holds a JSON example against an Avro schema, by the contract's rules for JSON.
struct Fit<'a> {
    case: &'a str,
    named: BTreeMap<String, Value>,
    unknown_symbols_allowed: bool,
    faults: Vec<String>,
}

impl Fit<'_> {
    fn check(&mut self, path: &str, schema: &Value, value: &Value) {
        match schema {
            Value::String(kind) => self.check_named(path, kind, value),
            Value::Array(union) => {
                let other = union.iter().find(|member| *member != "null").expect("a union of null and another");
                if !(value.is_null() && union.iter().any(|member| member == "null")) {
                    self.check(path, other, value);
                }
            }
            Value::Object(_) => self.check_complex(path, schema, value),
            Value::Null | Value::Bool(_) | Value::Number(_) => self.fault(path, "the schema is broken"),
        }
    }

    fn check_named(&mut self, path: &str, kind: &str, value: &Value) {
        let fits = match kind {
            "string" | "bytes" => value.is_string(),
            "long" => value.is_i64(),
            "int" => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
            "double" => value.is_number(),
            "boolean" => value.is_boolean(),
            name => match self.named.get(name).cloned() {
                Some(schema) => return self.check(path, &schema, value),
                None => false,
            },
        };
        if !fits {
            self.fault(path, &format!("{value} is no {kind}"));
        }
    }

    fn check_complex(&mut self, path: &str, schema: &Value, value: &Value) {
        if let Some(name) = schema["name"].as_str() {
            self.named.insert(name.to_owned(), schema.clone());
        }
        match schema["type"].as_str().expect("a type") {
            "record" => self.check_record(path, schema, value),
            "enum" => {
                let known = value.as_str().is_some_and(|symbol| symbols(schema).contains(&symbol));
                let is_tolerated = self.unknown_symbols_allowed && value.is_string();
                if !known && !is_tolerated {
                    self.fault(path, &format!("{value} is no symbol of {}", schema["name"]));
                }
            }
            "array" => match value.as_array() {
                Some(items) => items.iter().for_each(|item| self.check(&format!("{path}[]"), &schema["items"], item)),
                None => self.fault(path, "no array"),
            },
            "map" => match value.as_object() {
                Some(map) => map.iter().for_each(|(key, item)| {
                    self.check(&format!("{path}[{key}]"), &schema["values"], item);
                }),
                None => self.fault(path, "no map"),
            },
            "long" if schema["logicalType"] == "timestamp-millis" => {
                let text_fits = value.as_str().is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok());
                if !value.is_i64() && !text_fits {
                    self.fault(path, &format!("{value} is no time: milliseconds or RFC 3339"));
                }
            }
            kind => self.check_named(path, kind, value),
        }
    }

    fn check_record(&mut self, path: &str, schema: &Value, value: &Value) {
        let Some(object) = value.as_object() else { return self.fault(path, "no object") };
        let fields = schema["fields"].as_array().expect("fields");
        for field in fields {
            let name = field["name"].as_str().expect("a field name");
            // A schema is read even where the example leaves the field out: it may define a name used later.
            self.learn(&field["type"]);
            match object.get(name) {
                Some(value) => self.check(&format!("{path}.{name}"), &field["type"], value),
                None if field.get("default").is_none() => {
                    self.fault(path, &format!("required field {name} is missing"))
                }
                None => {}
            }
        }
        for name in object.keys().filter(|name| !fields.iter().any(|field| field["name"] == **name)) {
            self.fault(path, &format!("unknown field {name}"));
        }
    }

    fn learn(&mut self, schema: &Value) {
        walk(schema, &mut |part| {
            if let (Some(name), Some("record" | "enum")) = (part["name"].as_str(), part["type"].as_str()) {
                self.named.insert(name.to_owned(), part.clone());
            }
        });
    }

    fn fault(&mut self, path: &str, what: &str) {
        self.faults.push(format!("examples/{}.json: {path}: {what}", self.case));
    }
}

fn folder() -> PathBuf {
    repository().join("schemas")
}

fn versions() -> Vec<PathBuf> {
    let mut versions = folders_of(&folder().join("history"));
    versions.sort_by_key(|version| -> u32 {
        let name = version.file_name().unwrap().to_string_lossy().into_owned();
        name.strip_prefix('v').and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{name} is no v<n>"))
    });
    assert!(!versions.is_empty());
    versions
}

fn schemas_of(folder: &Path) -> Vec<(String, String)> {
    let files = files_of(folder, "avsc");
    assert!(!files.is_empty(), "no schemas in {}", folder.display());
    files.iter().map(|file| (file.file_stem().unwrap().to_string_lossy().into_owned(), read(file))).collect()
}

fn files_of(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = entries(folder);
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files
}

fn folders_of(folder: &Path) -> Vec<PathBuf> {
    let mut folders = entries(folder);
    folders.retain(|path| path.is_dir());
    folders
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder entry").path()).collect();
    paths.sort();
    paths
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[track_caller]
fn parse(name: &str, text: &str) -> Schema {
    Schema::parse_str(text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[track_caller]
fn json(name: &str, text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn symbols(enumeration: &Value) -> Vec<&str> {
    enumeration["symbols"].as_array().expect("symbols").iter().filter_map(Value::as_str).collect()
}

fn walk_enums(schema: &Value, visit: &mut impl FnMut(&Value)) {
    walk(schema, &mut |part| {
        if part["type"] == "enum" {
            visit(part);
        }
    });
}

fn walk(value: &Value, visit: &mut impl FnMut(&Value)) {
    visit(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
        Value::Object(map) => map.values().for_each(|item| walk(item, visit)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
