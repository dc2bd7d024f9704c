//! Closed lists of words that travel by name in JSON and by position in Avro.

/// Declares an enum of the contract: its names in the order of the Avro symbols, its default for a name that we do
/// not know (a newer publisher must not be refused), and how it is written.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident default $default:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// Every value, in the order of the Avro symbols.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];
            /// What an unknown name becomes.
            pub const UNKNOWN_BECOMES: $name = $name::$default;

            /// The name in the contract.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $($name::$variant => $text),+ } }

            /// The value of a name of the contract; `None` when this build does not know it.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> { match name { $($text => Some($name::$variant),)+ _ => None } }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> { stringify!($name).into() }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "enum": [$($text),+] })
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.pad(self.as_str()) }
        }
    };
}
pub(crate) use named;
