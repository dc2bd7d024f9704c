//! What a person changes of a playbook for a while: its mode and its thresholds. Text in, text out; who compares both sees
//! that nothing else became different.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Amount, Measure, Playbook, PlaybookMode, Thresholds};
use crate::event::AttackState;

/// The states in their order in a threshold.
const STATES: [(AttackState, &str); 3] =
    [(AttackState::Calm, "calm"), (AttackState::Elevated, "elevated"), (AttackState::Attack, "attack")];
/// Fewest of anything that [`aggressive`] takes for an attack where nobody wrote what is right in one.
const COUNT_MIN: f64 = 2.0;

/// What is different.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Edit {
    pub mode: Option<PlaybookMode>,
    /// Lower bounds of the trigger: in CALM, ELEVATED and ATTACK.
    pub at_least: BTreeMap<Measure, [f64; 3]>,
    pub version: i32,
}

/// The lower bounds of a trigger that a person may change: counts and shares, in CALM, ELEVATED and ATTACK.
#[must_use]
pub fn thresholds(playbook: &Playbook) -> BTreeMap<Measure, [f64; 3]> {
    let of = playbook.trigger.iter().filter(|(measure, _)| measure.is_count() || measure.is_share());
    of.filter_map(|(measure, bound)| {
        let at_least = bound.at_least?;
        Some((*measure, STATES.map(|(state, _)| at_least.at(state))))
    })
    .collect()
}

/// As if every state were ATTACK; where the author wrote one number for all, half of a count and at least two.
#[must_use]
pub fn aggressive(playbook: &Playbook) -> BTreeMap<Measure, [f64; 3]> {
    let mut all = thresholds(playbook);
    for (measure, of) in &mut all {
        let [calm, elevated, attack] = *of;
        let is_same = [elevated, attack].iter().all(|n| (n - calm).abs() < f64::EPSILON);
        let tight = if is_same && measure.is_count() { (calm / 2.0).ceil().max(COUNT_MIN.min(calm)) } else { attack };
        *of = [tight; 3];
    }
    all
}

/// The text of a playbook with an edit, and the playbook. Its fixtures are left out: they tell of other thresholds.
///
/// # Errors
/// The text does not read, or a bound that is to be changed is not there.
pub fn edited(text: &str, edit: &Edit) -> Result<(String, Playbook), String> {
    let mut wanted = Playbook::parse(text)?;
    let mut value: Value = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    let fields = value.as_object_mut().ok_or("the playbook is no mapping")?;
    wanted.version = edit.version;
    fields.insert("version".to_owned(), edit.version.into());
    if let Some(mode) = edit.mode {
        wanted.mode = mode;
        fields.insert("mode".to_owned(), mode.as_str().into());
    }
    for (measure, of) in &edit.at_least {
        let name = measure.as_str();
        let bound = wanted.trigger.get_mut(measure).filter(|bound| bound.at_least.is_some());
        let bound = bound.ok_or_else(|| format!("{name}: the trigger has no lower bound of it"))?;
        let at = fields.get_mut("trigger").and_then(|trigger| trigger.get_mut(name)).and_then(Value::as_object_mut);
        let at = at.ok_or_else(|| format!("{name}: its text is laid out in another way"))?;
        let was_one = matches!(bound.at_least, Some(Thresholds::Same(_)));
        let (threshold, written) = written(*of, was_one);
        bound.at_least = Some(threshold);
        at.insert("at_least".to_owned(), written);
    }
    wanted.fixtures.clear();
    fields.remove("fixtures");
    let text = serde_saphyr::to_string(&value).map_err(|e| e.to_string())?;
    match Playbook::parse(&text) {
        Ok(read) if read == wanted => Ok((text, read)),
        Ok(_) => Err("the text would come to mean something else; change it by hand".to_owned()),
        Err(why) => Err(why),
    }
}

/// A threshold, and how it is written: in the shape that it had where that is possible, so that a comparison shows numbers.
fn written(of: [f64; 3], was_one: bool) -> (Thresholds, Value) {
    let [calm, elevated, attack] = of;
    if was_one && [elevated, attack].iter().all(|n| (n - calm).abs() < f64::EPSILON) {
        return (Thresholds::Same(Amount(calm)), number(calm));
    }
    let by_state: Map<String, Value> =
        STATES.iter().zip(of).map(|((_, name), n)| ((*name).to_owned(), number(n))).collect();
    let by = super::measure::ByState { calm: Amount(calm), elevated: Amount(elevated), attack: Amount(attack) };
    (Thresholds::ByState(by), by_state.into())
}

/// Whole numbers without a point.
fn number(n: f64) -> Value {
    // Every count of a window is far below 2^53.
    if n.fract().abs() < f64::EPSILON && n.abs() < 1e15 { json!(n as i64) } else { json!(n) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# by hand\nid: a\nversion: 1\nowner: us\ndescription: 'no: colon'\nmode: live\nfinding: account_fanout\n\
        per: address\nover: 10m\ntrigger:\n  accounts_failed: {at_least: {calm: 10, elevated: 5, attack: 3}}\n  \
        failure_share: {at_least: 0.8}\n  failures: {at_least: 12, at_most: 900}\nthen: {action: BLOCK, ladder: [15m, 1h]}\n\
        where: {user_agent: [\"curl/*\", \"yes\", \"012\"]}\n";

    fn shown(of: &[f64]) -> String {
        format!("{of:?}")
    }

    #[test]
    fn thresholds_are_found_and_tightened_as_in_an_attack() {
        let playbook = Playbook::parse(TEXT).unwrap();
        let found = thresholds(&playbook);
        assert_eq!(shown(&found[&Measure::AccountsFailed]), "[10.0, 5.0, 3.0]");
        assert_eq!((shown(&found[&Measure::FailureShare]), found.len()), ("[0.8, 0.8, 0.8]".to_owned(), 3));
        let tight = aggressive(&playbook);
        assert_eq!(shown(&tight[&Measure::AccountsFailed]), "[3.0, 3.0, 3.0]");
        assert_eq!(shown(&tight[&Measure::FailureShare]), "[0.8, 0.8, 0.8]");
        assert_eq!(shown(&tight[&Measure::Failures]), "[6.0, 6.0, 6.0]");
    }

    #[test]
    fn an_edit_changes_what_it_says_and_nothing_else() {
        let at_least = BTreeMap::from([(Measure::AccountsFailed, [3.0; 3]), (Measure::FailureShare, [0.75, 0.5, 0.5])]);
        let edit = Edit { mode: Some(PlaybookMode::Shadow), at_least, version: 7 };
        let (text, playbook) = edited(TEXT, &edit).unwrap();
        let mut wanted = Playbook::parse(TEXT).unwrap();
        (wanted.version, wanted.mode) = (7, PlaybookMode::Shadow);
        let at_least = |of: &Playbook, measure| {
            [AttackState::Calm, AttackState::Attack].map(|state| of.trigger[&measure].at_least.unwrap().at(state))
        };
        assert_eq!(shown(&at_least(&playbook, Measure::AccountsFailed)), "[3.0, 3.0]");
        assert_eq!(shown(&at_least(&playbook, Measure::FailureShare)), "[0.75, 0.5]");
        assert_eq!(playbook.trigger[&Measure::Failures], wanted.trigger[&Measure::Failures]);
        wanted.trigger.clone_from(&playbook.trigger);
        assert_eq!(playbook, wanted, "{text}");
        assert_eq!(edited(&text, &edit).unwrap().0, text);
    }

    #[test]
    fn what_is_not_there_is_not_changed() {
        let of = |measure| Edit { at_least: BTreeMap::from([(measure, [1.0; 3])]), version: 2, ..Edit::default() };
        assert!(edited(TEXT, &of(Measure::Sources)).unwrap_err().starts_with("sources:"));
        assert!(edited("id: a", &Edit::default()).is_err());
    }
}
