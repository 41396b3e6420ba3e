//! What the files are called.

/// Of a file that is being written.
const PARTIAL: &str = ".partial";

/// What a file of a storage is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A generation's manifest.
    Manifest(u64),
    /// A manifest that was set aside.
    Aside(u64),
    /// Tensors.
    Data,
    /// One that was being written, of a generation where it is a manifest.
    Partial(Option<u64>),
    /// Not of a checkpoint.
    Other,
}

impl Kind {
    /// The generation whose number it has.
    pub(super) fn generation(self) -> Option<u64> {
        match self {
            Self::Manifest(generation) | Self::Aside(generation) => Some(generation),
            Self::Partial(generation) => generation,
            Self::Data | Self::Other => None,
        }
    }
}

pub(super) fn kind(name: &str) -> Kind {
    if let Some(name) = name.strip_suffix(PARTIAL) {
        return match kind(name) {
            Kind::Manifest(generation) => Kind::Partial(Some(generation)),
            Kind::Data => Kind::Partial(None),
            // Ours is also one whose hash is not known yet.
            _ if name.starts_with("tensors-") => Kind::Partial(None),
            _ => Kind::Other,
        };
    }
    let generation = |name: &str| {
        let number = name.strip_prefix("generation-")?.strip_suffix(".json")?.parse().ok()?;
        // One way to write a number, so that no two files are of the same generation.
        (manifest(number) == name).then_some(number)
    };
    if let Some(number) = name.strip_suffix(".bad").and_then(generation) {
        return Kind::Aside(number);
    }
    if let Some(number) = generation(name) {
        return Kind::Manifest(number);
    }
    let digits = name.strip_prefix("tensors-").and_then(|name| name.strip_suffix(".safetensors"));
    if digits.is_some_and(|digits| digits.len() == 16 && is_hex(digits)) { Kind::Data } else { Kind::Other }
}

pub(super) fn manifest(generation: u64) -> String {
    format!("generation-{generation:012}.json")
}

pub(super) fn aside(generation: u64) -> String {
    format!("{}.bad", manifest(generation))
}

/// Of a file of tensors with this hash.
pub(super) fn data(hash: &str) -> String {
    format!("tensors-{}.safetensors", hash.get(..16).unwrap_or(hash))
}

/// Of a group's file while its hash is not known yet.
pub(super) fn partial_data(group: usize) -> String {
    format!("tensors-{group}{PARTIAL}")
}

pub(super) fn partial(name: &str) -> String {
    format!("{name}{PARTIAL}")
}

pub(super) fn is_hash(text: &str) -> bool {
    text.len() == 64 && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
