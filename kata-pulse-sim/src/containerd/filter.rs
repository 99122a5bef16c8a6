//! containerd's filter language, as far as clients of this API use it: `field op value` with `==`, `!=` and `~=`,
//! joined with commas; a field alone asks whether it is there. Several filters are alternatives; none is everything.

use std::borrow::Cow;

use regex::Regex;
use tonic::Status;

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

/// Alternatives, each a list of conditions that all must hold.
#[derive(Debug)]
pub(super) struct Filters(Vec<Vec<(String, Test)>>);

impl Filters {
    /// containerd's own word for a mistake: code Unknown, `filters: parse error`.
    pub(super) fn parse(texts: &[String]) -> Result<Self, Status> {
        let parsed: Option<Vec<_>> = texts.iter().map(|text| conditions(text)).collect();
        parsed.map(Self).ok_or_else(|| Status::unknown(format!("filters: parse error: {texts:?}")))
    }

    /// `value` looks up a field by its path; keys of labels are part of it, without quotes.
    pub(super) fn accept<'a>(&self, value: impl Fn(&str) -> Option<Cow<'a, str>>) -> bool {
        let holds = |(field, test): &(String, Test)| match (value(field), test) {
            (Some(value), Test::Equal(wanted)) => value == *wanted,
            (Some(value), Test::Matches(pattern)) => pattern.is_match(&value),
            (None, Test::Equal(_) | Test::Matches(_)) => false,
            (value, Test::NotEqual(unwanted)) => value.as_deref() != Some(unwanted),
            (value, Test::Present) => value.is_some_and(|value| !value.is_empty()),
        };
        self.0.is_empty() || self.0.iter().any(|all| all.iter().all(holds))
    }
}

fn conditions(text: &str) -> Option<Vec<(String, Test)>> {
    let mut rest = text;
    let mut found = Vec::new();
    loop {
        let (condition, behind) = condition(rest)?;
        found.push(condition);
        match behind.strip_prefix(',') {
            Some(next) => rest = next,
            None if behind.is_empty() => return Some(found),
            None => return None,
        }
    }
}

fn condition(text: &str) -> Option<((String, Test), &str)> {
    let (field, rest) = field(text)?;
    for (operator, test) in [("==", Test::Equal as fn(String) -> Test), ("!=", Test::NotEqual)] {
        if let Some(rest) = rest.strip_prefix(operator) {
            let (value, rest) = value(rest)?;
            return Some(((field, test(value)), rest));
        }
    }
    if let Some(rest) = rest.strip_prefix("~=") {
        let (value, rest) = value(rest)?;
        return Some(((field, Test::Matches(Regex::new(&value).ok()?)), rest));
    }
    (rest.is_empty() || rest.starts_with(',')).then_some(((field, Test::Present), rest))
}

/// Words joined with dots, each plain or in quotes.
fn field(text: &str) -> Option<(String, &str)> {
    let mut path = String::new();
    let mut rest = text;
    loop {
        let (word, behind) = match rest.strip_prefix('"') {
            Some(_) => quoted(rest)?,
            None => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        if word.is_empty() {
            return None;
        }
        path.push_str(&word);
        match behind.strip_prefix('.') {
            Some(next) => {
                path.push('.');
                rest = next;
            }
            None => return Some((path, behind)),
        }
    }
}

fn value(text: &str) -> Option<(String, &str)> {
    if text.starts_with('"') {
        return quoted(text);
    }
    let end = text.find(',').unwrap_or(text.len());
    (end > 0).then(|| (text[..end].to_owned(), &text[end..]))
}

/// Go's quoted string; an escape that Go does not know is a mistake.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut letters = text.char_indices().skip(1);
    let mut value = String::new();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match letters.next()?.1 {
                'n' => '\n',
                't' => '\t',
                plain @ ('"' | '\\') => plain,
                _ => return None,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(filters: &[&str], expected: Option<bool>) {
        let filters: Vec<String> = filters.iter().map(|&text| text.to_owned()).collect();
        let value = |field: &str| match field {
            "id" => Some("abc".into()),
            "topic" => Some("/tasks/exit".into()),
            "labels.io.cri-containerd.kind" => Some("sandbox".into()),
            _ => None,
        };
        assert_eq!(Filters::parse(&filters).ok().map(|f| f.accept(value)), expected, "{filters:?}");
    }

    #[test]
    fn several_filters_are_alternatives_and_none_is_everything() {
        check(&[], Some(true));
        check(&["id==x", "id==abc"], Some(true));
        check(&["id==x", "id==y"], Some(false));
        check(&["id!=abc"], Some(false));
    }

    #[test]
    fn commas_join_patterns_match_and_keys_may_be_quoted() {
        check(&["id==abc,topic~=\"^/tasks/(exit|delete)\""], Some(true));
        check(&["id==x,topic~=/tasks/"], Some(false));
        check(&["labels.\"io.cri-containerd.kind\"==sandbox"], Some(true));
        check(&["image", "labels"], Some(false));
        check(&["runtime.name!=x"], Some(true));
    }

    #[test]
    fn mistakes_are_refused() {
        for mistake in ["id=x", "", "id==", "==x", "topic~=\"a\\.b\"", "topic~=\"(\"", "id==\"x"] {
            check(&[mistake], None);
        }
    }
}
