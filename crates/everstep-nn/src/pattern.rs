//! Patterns over the names of parameters.

use globset::{GlobBuilder, GlobMatcher};

use crate::{Error, Result};

/// A glob pattern over dotted names: `*` stands for any characters, dots too, `?` for one, `[ab]` for one of these and
/// `{weight,bias}` for one of these words. It matches whole names, and case counts.
///
/// ```
/// # use everstep_nn::Pattern;
/// let pattern = Pattern::new("encoder.*.{weight,bias}")?;
/// assert!(pattern.matches("encoder.layers.0.weight"));
/// assert!(!pattern.matches("decoder.layers.0.weight"));
/// # Ok::<(), everstep_nn::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pattern(GlobMatcher);

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// [`Error::Pattern`].
    pub fn new(pattern: &str) -> Result<Self> {
        // A name is no path: the separators of no system mean anything in it.
        let glob = GlobBuilder::new(pattern).literal_separator(false).backslash_escape(true).build();
        let wrong =
            |error: globset::Error| Error::Pattern { pattern: pattern.into(), reason: error.kind().to_string() };
        Ok(Self(glob.map_err(wrong)?.compile_matcher()))
    }

    /// Whether the whole of `name` matches.
    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}
