//! Which metrics and labels a query reads. In: PromQL that Prometheus accepts, with plain numbers in its ranges. Out:
//! [`Reads`]. It knows the language's words, not its grammar: what is wrong with a query is Prometheus' to say.

use std::collections::BTreeSet;

/// What a query reads.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reads {
    pub selectors: Vec<Selector>,
    /// Named in `by`, `on` and so on.
    pub grouped: BTreeSet<String>,
}

/// One metric with the labels it is asked for by.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selector {
    pub metric: String,
    pub labels: BTreeSet<String>,
}

const GROUPING: &[&str] = &["by", "without", "on", "ignoring", "group_left", "group_right"];
const OPERATORS: &[&str] = &["and", "or", "unless", "bool", "offset"];

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// A string, a number, a duration: nothing that names anything.
    Literal,
    Sign(char),
}

pub fn reads(query: &str) -> Reads {
    let tokens = tokens(query);
    let (mut reads, mut at) = (Reads::default(), 0);
    let sign = |at: usize, sign: char| tokens.get(at) == Some(&Token::Sign(sign));
    while let Some(token) = tokens.get(at) {
        at += 1;
        let Token::Word(word) = token else { continue };
        let groups_next = matches!(tokens.get(at), Some(Token::Word(next)) if GROUPING.contains(&next.as_str()));
        if GROUPING.contains(&word.as_str()) {
            if sign(at, '(') {
                let (labels, end) = words_until(&tokens, at, ')');
                reads.grouped.extend(labels);
                at = end;
            }
        } else if OPERATORS.contains(&word.as_str()) || sign(at, '(') || groups_next {
            // An operator, a function, or an aggregation whose grouping comes first.
        } else {
            let mut selector = Selector { metric: word.clone(), ..Selector::default() };
            if sign(at, '{') {
                let (labels, end) = words_until(&tokens, at, '}');
                selector.labels = labels;
                at = end;
            }
            reads.selectors.push(selector);
        }
    }
    reads
}

fn words_until(tokens: &[Token], from: usize, end: char) -> (BTreeSet<String>, usize) {
    let length = tokens[from..].iter().position(|token| *token == Token::Sign(end)).expect("a bracket is closed");
    let words = tokens[from..from + length].iter().filter_map(|token| match token {
        Token::Word(word) => Some(word.clone()),
        _ => None,
    });
    (words.collect(), from + length)
}

fn tokens(query: &str) -> Vec<Token> {
    let (mut tokens, mut rest) = (Vec::new(), query);
    while let Some(first) = rest.chars().next() {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let length = match first {
            '"' => 2 + rest[1..].find('"').expect("a string ends"),
            '0'..='9' => rest.find(|c: char| !is_name(c) && c != '.').unwrap_or(rest.len()),
            _ if is_name(first) => rest.find(|c| !is_name(c)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        match first {
            '"' | '0'..='9' => tokens.push(Token::Literal),
            _ if is_name(first) => tokens.push(Token::Word(rest[..length].to_owned())),
            _ if first.is_whitespace() => {}
            _ => tokens.push(Token::Sign(first)),
        }
        rest = &rest[length..];
    }
    tokens
}

#[test]
fn metrics_and_labels_are_told_from_functions_and_words() {
    let set = |labels: &[&str]| labels.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    let query = r#"topk(10, sum by (pod, le) (rate(a_total{x=~"y|\\.z", w!="sum"}[5m])) / on (pod) group_left b:c:sum)
                   unless d > 1e3 or absent(up == 0) and (e offset 5m)"#;
    let found = reads(query);
    assert_eq!(found.grouped, set(&["pod", "le"]));
    let metrics: Vec<&str> = found.selectors.iter().map(|selector| selector.metric.as_str()).collect();
    assert_eq!(metrics, ["a_total", "b:c:sum", "d", "up", "e"]);
    assert_eq!(found.selectors[0].labels, set(&["x", "w"]));
}
