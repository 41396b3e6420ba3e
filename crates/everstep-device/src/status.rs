//! Errors that depend on data: a kernel that meets an element outside its range clamps it and reports here.
//!
//! The status is four words at the start of a buffer that every device has: the code of the op that reported first
//! (0: none), the largest offending value, the bound, and one word unused. A gate refuses the step that set it; the
//! next read-back or record turns it into [`Error::OutOfRange`].

use crate::Error;

/// Words of the status.
pub const WORDS: usize = 4;

/// Which op reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// A label at or above the number of classes.
    CrossEntropy = 1,
    /// An index at or above the number of rows.
    Embedding = 2,
    /// An index at or above the dimension's size.
    IndexSelect = 3,
    /// As [`Code::IndexSelect`].
    IndexAdd = 4,
    /// As [`Code::IndexSelect`].
    Gather = 5,
    /// As [`Code::IndexSelect`].
    ScatterAdd = 6,
    /// A class at or above the number of classes.
    OneHot = 7,
}

impl Code {
    const ALL: [Self; 7] = [
        Self::CrossEntropy,
        Self::Embedding,
        Self::IndexSelect,
        Self::IndexAdd,
        Self::Gather,
        Self::ScatterAdd,
        Self::OneHot,
    ];

    /// The name of the op.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CrossEntropy => "cross_entropy",
            Self::Embedding => "embedding",
            Self::IndexSelect => "index_select",
            Self::IndexAdd => "index_add",
            Self::Gather => "gather",
            Self::ScatterAdd => "scatter_add",
            Self::OneHot => "one_hot",
        }
    }

    fn op(word: u32) -> &'static str {
        Self::ALL.into_iter().find(|&code| code as u32 == word).map_or("unknown op", Self::name)
    }
}

/// Reports on the CPU; `shared/status.wgsl` is the twin. The first op to report keeps the word.
pub(crate) fn report(words: &mut [u32], code: Code, value: u32, bound: u32) {
    if words[0] == 0 || words[0] == code as u32 {
        words[0] = code as u32;
        words[1] = words[1].max(value);
        words[2] = bound;
    }
}

/// The error that a status says; `None` for a clean one.
pub fn error(words: &[u32]) -> Option<Error> {
    let [code, value, bound, ..] = *words else { return None };
    (code != 0).then(|| Error::OutOfRange { op: Code::op(code), value, bound })
}
