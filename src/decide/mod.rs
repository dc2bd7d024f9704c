//! From a finding to a verdict and a claim: what is to be done, about whom, until when.

mod standing;
mod verdict;

pub use standing::{CLAIMS_MAX, Change, Claim, OPERATOR, Shown, Standing};
pub use verdict::{Case, Decision, Manner, decide, is_news, is_over, is_settled, verdict_id};
