//! Characters as tokens.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A list of characters, each with its place in the list as its token. Serialised as one string.
///
/// ```
/// use everstep_data::Vocabulary;
///
/// # fn main() -> everstep_data::Result<()> {
/// let vocabulary = Vocabulary::from_text("hello");
/// assert_eq!(vocabulary.characters(), ['e', 'h', 'l', 'o']);
/// assert_eq!(vocabulary.encode("hole")?, [1, 3, 2, 0]);
/// assert_eq!(vocabulary.decode(&[1, 3, 2, 0])?, "hole");
/// assert!(vocabulary.encode("help").is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Vocabulary {
    characters: Vec<char>,
    // Sorted by character, to be searched.
    tokens: Vec<(char, u32)>,
}

impl Vocabulary {
    /// The characters of `text`, each once, sorted by code point.
    pub fn from_text(text: &str) -> Self {
        // Not collected: that would hold every character of the text at once, to sort them.
        let mut seen = BTreeSet::new();
        seen.extend(text.chars());
        let characters: Vec<char> = seen.into_iter().collect();
        let tokens = characters.iter().copied().zip(0..).collect();
        Self { characters, tokens }
    }

    /// The vocabulary of these characters, in this order.
    ///
    /// ```
    /// # use everstep_data::Vocabulary;
    /// let bases = Vocabulary::new("TACG".chars())?;
    /// assert_eq!(bases.encode("GATTACA")?, [3, 1, 0, 0, 1, 2, 1]);
    /// # Ok::<(), everstep_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::RepeatedCharacter`].
    pub fn new(characters: impl IntoIterator<Item = char>) -> Result<Self> {
        let characters: Vec<char> = characters.into_iter().collect();
        let mut tokens: Vec<(char, u32)> = characters.iter().copied().zip(0..).collect();
        tokens.sort_unstable();
        match tokens.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(Error::RepeatedCharacter { character: pair[0].0 }),
            None => Ok(Self { characters, tokens }),
        }
    }

    /// The number of characters.
    pub fn len(&self) -> usize {
        self.characters.len()
    }

    /// Whether there are no characters.
    pub fn is_empty(&self) -> bool {
        self.characters.is_empty()
    }

    /// The characters in the order of their tokens.
    pub fn characters(&self) -> &[char] {
        &self.characters
    }

    /// The token of `character`, where it has one.
    pub fn token(&self, character: char) -> Option<u32> {
        let found = self.tokens.binary_search_by_key(&character, |&(other, _)| other).ok()?;
        Some(self.tokens[found].1)
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// [`Error::UnknownCharacter`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let unknown = |(position, character)| Error::UnknownCharacter { character, position, vocabulary: self.len() };
        let token = |(position, character)| self.token(character).ok_or_else(|| unknown((position, character)));
        text.chars().enumerate().map(token).collect()
    }

    /// The text of tokens.
    ///
    /// # Errors
    /// [`Error::UnknownToken`].
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        let character = |(position, &token): (usize, &u32)| {
            let found = self.characters.get(token as usize).copied();
            found.ok_or(Error::UnknownToken { token, position, vocabulary: self.len() })
        };
        tokens.iter().enumerate().map(character).collect()
    }
}

impl TryFrom<String> for Vocabulary {
    type Error = Error;

    fn try_from(characters: String) -> Result<Self> {
        Self::new(characters.chars())
    }
}

impl From<Vocabulary> for String {
    fn from(vocabulary: Vocabulary) -> Self {
        vocabulary.characters.into_iter().collect()
    }
}
