//! Families that are passed through as a shim or a guest put them out.

/// One family of one sandbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawFamily {
    /// As the page shows it.
    pub name: Box<str>,
    /// `gauge`, `counter`, `histogram`, `summary`.
    pub kind: &'static str,
    pub samples: Vec<RawSample>,
}

/// Labels are well-formed and sorted, cut where the sandbox's own labels go: before `cri_…`, between those and
/// `sandbox_id`, and behind it. None of them is one of the sandbox's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawSample {
    /// What the sample's name has behind the family's: `_bucket`, or nothing.
    pub suffix: &'static str,
    pub labels: [Box<str>; 3],
    pub value: Box<str>,
}
