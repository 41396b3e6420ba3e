//! The table of ops.
/// All.
pub const ALL: &[&str] = &[];
