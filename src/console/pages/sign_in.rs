//! The form to sign in.

use maud::{Markup, html};

use super::{Look, Place, page, wrong_with};

pub(in crate::console) fn sign_in(look: &Look<'_>, next: &str, wrong: Option<&str>) -> Markup {
    let has_tokens = look.operating().is_some_and(|operating| operating.operators.has_tokens());
    let main = html! {
        h1 { "Sign in" }
        (wrong_with(wrong))
        @if let Some(person) = &look.viewer.person {
            p { "You are signed in as " (super::name(&person.name)) " (" (person.role.as_str()) "). " a href=(next) { "Go on" } "." }
        }
        @if has_tokens {
            form.deed method="post" action="/sign-in" {
                input type="hidden" name="next" value=(next);
                div.field {
                    label for="token" { "Your token" }
                    input #token type="password" name="token" required maxlength="256" autocomplete="current-password";
                }
                button type="submit" { "Sign in" }
            }
            p.quiet { "You stay signed in for eight hours. Whoever came here by a link from elsewhere and is signed in already: " a href=(next) { "go on" } "." }
        } @else {
            p { "Nobody has a token here: people come by a proxy that names them." }
        }
    };
    page(look, Place::Elsewhere, "Sign in", &main)
}
