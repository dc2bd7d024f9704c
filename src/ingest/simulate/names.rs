//! E-mail names: a number becomes a name, different numbers different names.
//!
//! The domains are reserved ones (RFC 2606), so that no generated name is somebody's address.

/// How many different names there are: 64 first names, 128 last names, 4 forms, 1,024 numbers, 8 domains.
pub(super) const NAMES: u64 = 1 << 28;

const FIRST: [&str; 64] = [
    "adele", "alain", "alice", "amelie", "andre", "anna", "antoine", "arthur", "aurelie", "bernard", "camille",
    "cecile", "charles", "chloe", "claire", "clara", "daniel", "david", "denis", "elena", "elise", "emil", "emma",
    "eric", "fatima", "felix", "florence", "gaelle", "georg", "hanna", "helene", "hugo", "ines", "ivan", "jakob",
    "jeanne", "jonas", "julie", "karim", "laura", "lea", "lucas", "manon", "marc", "marie", "mathis", "mehdi", "nadia",
    "nina", "noah", "olivia", "oscar", "pablo", "paul", "pierre", "rachid", "rosa", "sarah", "sofia", "sylvie", "theo",
    "thomas", "yasmine", "zoe",
];

const LAST: [&str; 128] = [
    "adam", "andersen", "arnaud", "aubert", "bailly", "barbier", "baron", "becker", "benoit", "berger", "bertrand",
    "besson", "bianchi", "blanc", "bonnet", "boucher", "bouvier", "boyer", "brun", "brunet", "caron", "carpentier",
    "castro", "chevalier", "clement", "colin", "costa", "da-silva", "delmas", "diaz", "dubois", "dufour", "dumas",
    "dupont", "durand", "duval", "fabre", "faure", "fernandez", "ferrari", "fischer", "fleury", "fontaine", "fournier",
    "gaillard", "garcia", "garnier", "gauthier", "gautier", "gerard", "girard", "giraud", "gomez", "gonzalez",
    "guerin", "guillot", "hansen", "henry", "herve", "hubert", "huet", "jacquet", "jansen", "joly", "klein", "lacroix",
    "lambert", "laurent", "leblanc", "leclerc", "lefebvre", "legrand", "lemaire", "lemoine", "leroux", "leroy",
    "lopez", "marchand", "marechal", "martinez", "masson", "mathieu", "mercier", "meunier", "meyer", "michel",
    "moreau", "morel", "moulin", "muller", "navarro", "nguyen", "nicolas", "noel", "nowak", "olivier", "peeters",
    "pereira", "perez", "perrin", "petit", "philippe", "picard", "pires", "poirier", "renard", "renaud", "rey",
    "richard", "riviere", "robin", "roche", "rodriguez", "roger", "romero", "rossi", "rousseau", "roussel", "roux",
    "sanchez", "schmidt", "schneider", "simon", "smets", "vidal", "vincent", "wagner", "weber",
];

const DOMAINS: [&str; 8] = [
    "mail.example", "inbox.example", "post.example", "webmail.example", "courrier.example", "home.example",
    "letters.example", "mobile.example",
];

/// The name of a number below [`NAMES`]; higher ones begin again.
pub(super) fn name(number: u64) -> String {
    let first = part(&FIRST, number);
    let last = part(&LAST, number >> 6);
    let digits = (number >> 13) % 1024;
    let domain = part(&DOMAINS, number >> 23);
    let (left, mark, right) = match (number >> 26) % 4 {
        0 => (first, ".", last),
        1 => (first, "_", last),
        2 => (last, ".", first),
        _ => (first, "+", last),
    };
    match digits {
        0 => format!("{left}{mark}{right}@{domain}"),
        _ => format!("{left}{mark}{right}{digits}@{domain}"),
    }
}

/// The same name with a slip of the finger, which is nobody's: its first letter twice, or a letter of the domain
/// missing. No first or last name begins with a letter twice.
pub(super) fn misspelt(name: &str, slip: u64) -> String {
    if slip.is_multiple_of(2) {
        let first: String = name.chars().take(1).collect();
        return format!("{first}{name}");
    }
    name.strip_suffix("le").unwrap_or(name).to_owned() + "e"
}

fn part<const N: usize>(list: &[&'static str; N], number: u64) -> &'static str {
    super::dice::nth(list, number % N as u64).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn parts_are_different_so_that_names_are() {
        let firsts: BTreeSet<&str> = FIRST.into_iter().collect();
        let lasts: BTreeSet<&str> = LAST.into_iter().collect();
        let domains: BTreeSet<&str> = DOMAINS.into_iter().collect();
        assert_eq!((firsts.len(), lasts.len(), domains.len()), (64, 128, 8));
        assert!(firsts.is_disjoint(&lasts), "`a.b` and `b.a` must be told apart");
        assert!(firsts.union(&lasts).all(|part| {
            let mut letters = part.chars();
            letters.next() != letters.next()
        }));
        let names: BTreeSet<String> = (0..NAMES).step_by(1013).map(name).collect();
        assert_eq!(names.len() as u64, NAMES.div_ceil(1013));
    }

    #[test]
    fn a_slip_is_another_name() {
        assert_eq!(misspelt("zoe.petit@mail.example", 0), "zzoe.petit@mail.example");
        assert_eq!(misspelt("zoe.petit@mail.example", 1), "zoe.petit@mail.exampe");
    }
}
