//! The stage loop: poll → step → produce → commit.
