//! Query strings, parsed once at the edge.

use crate::sandbox::SandboxId;

/// The sandbox that was asked for is not on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown sandbox")]
pub struct UnknownSandbox;

/// What of the page was asked for. Equal queries mean equal pages, so it can be a cache's key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MetricsQuery {
    /// `None`: all of them.
    pub sandbox: Option<SandboxId>,
    /// Prefixes of family names, sorted, none a prefix of another; empty: all families.
    pub families: Vec<String>,
}

impl MetricsQuery {
    /// Whether this is the page that everybody shares.
    pub fn is_whole(&self) -> bool {
        self.sandbox.is_none() && self.families.is_empty()
    }

    pub fn wants(&self, family: &str) -> bool {
        self.families.is_empty() || self.families.iter().any(|prefix| family.starts_with(prefix.as_str()))
    }

    /// An id that cannot exist is an unknown sandbox. Other parameters are ignored, as scrapers may add some.
    pub(crate) fn parse(pairs: &[(String, String)]) -> Result<Self, UnknownSandbox> {
        let sandbox = sandbox(pairs).map(SandboxId::parse).transpose().map_err(|_| UnknownSandbox)?;
        let lists = pairs.iter().filter(|(key, _)| key == "filter_family").flat_map(|(_, value)| value.split(','));
        let mut families: Vec<String> =
            lists.map(str::trim).filter(|prefix| !prefix.is_empty()).map(Into::into).collect();
        families.sort_unstable();
        families.dedup_by(|later, earlier| later.starts_with(earlier.as_str()));
        Ok(Self { sandbox, families })
    }
}

/// The first `sandbox` of a query.
pub(crate) fn sandbox(pairs: &[(String, String)]) -> Option<&str> {
    pairs.iter().find(|(key, _)| key == "sandbox").map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<MetricsQuery, UnknownSandbox> {
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        MetricsQuery::parse(&pairs)
    }

    #[test]
    fn prefixes_are_normalised() {
        let query = parse(&[("filter_family", "b, a,,ab"), ("x", "y"), ("filter_family", "a")]).unwrap();
        assert_eq!(query.families, ["a", "b"]);
        assert!(query.wants("abc") && !query.wants("c"));
        assert!(parse(&[("filter_family", "")]).unwrap().is_whole());
    }

    #[test]
    fn ids_that_cannot_exist_are_unknown() {
        for id in ["", "..", "../x", "a/b"] {
            assert_eq!(parse(&[("sandbox", id)]), Err(UnknownSandbox), "{id}");
        }
    }
}
