//! Sandbox ids, parsed once at the edge: a raw string never becomes part of a path.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Kata sets no upper bound, a directory name does: longer names cannot exist.
const MAX_LENGTH: usize = 255;

/// An id that Kata itself would accept: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SandboxId(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a sandbox id: letters, digits, '_', '.', '-', at least two, the first a letter or digit")]
pub struct InvalidSandboxId(String);

impl SandboxId {
    /// Never empty, never `..`, never holding a slash.
    pub fn parse(raw: &str) -> Result<Self, InvalidSandboxId> {
        let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        match raw.as_bytes() {
            [first, rest @ ..]
                if first.is_ascii_alphanumeric()
                    && !rest.is_empty()
                    && rest.iter().all(plain)
                    && raw.len() <= MAX_LENGTH =>
            {
                Ok(Self(raw.into()))
            }
            _ => Err(InvalidSandboxId(raw.chars().take(80).collect())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Firecracker under the Go runtime knows only the first 32 characters.
    pub fn firecracker_prefix(&self) -> &str {
        &self.0[..self.0.len().min(32)]
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SandboxId({})", self.0)
    }
}

impl Borrow<str> for SandboxId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_of_every_runtime_are_accepted() {
        for id in ["ab", "0".repeat(64).as_str(), "my_pod.1-x", "A1"] {
            assert_eq!(SandboxId::parse(id).unwrap().as_str(), id);
        }
    }

    #[test]
    fn what_could_leave_the_directory_is_refused() {
        for id in ["", ".", "..", "a", "-ab", ".ab", "a/b", "../x", "a b", "a\0b", "ä1", &"a".repeat(256)] {
            assert!(SandboxId::parse(id).is_err(), "{id:?}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_id_is_one_plain_path_component(raw in "\\PC{0,80}") {
            if let Ok(id) = SandboxId::parse(&raw) {
                let path = std::path::Path::new(id.as_str());
                prop_assert_eq!(path.components().count(), 1);
                prop_assert!(matches!(path.components().next(), Some(std::path::Component::Normal(_))));
            }
        }
    }
}
