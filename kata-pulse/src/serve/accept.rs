//! Content negotiation: `Accept` and `Accept-Encoding` with q-values. Pure, and never an error: what is
//! nonsense is passed over, and if nothing fits the first offer is served, as scrapers expect.

use axum::http::{HeaderMap, header};

/// One element of an `Accept` header: name, parameters but `q`, and `q` in thousandths.
struct Range<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    q: u32,
}

/// A media type we can serve, with the version that it has if it has one.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    pub name: &'static str,
    pub version: Option<&'static str>,
}

impl Offer {
    pub const fn plain(name: &'static str) -> Self {
        Self { name, version: None }
    }
}

/// Index of the offer to serve: highest q, then the more specific match, then the earlier offer.
pub fn choose(headers: &HeaderMap, offers: &[Offer]) -> usize {
    let joined = joined(headers, header::ACCEPT);
    let ranges: Vec<_> = joined.split(',').filter_map(parse_range).collect();
    let mut best = (0, 0, 0);
    for (index, offer) in offers.iter().enumerate() {
        let matched = ranges.iter().filter_map(|range| Some((specificity(range, offer)?, range.q)));
        let Some((specific, q)) = matched.max() else { continue };
        if q > 0 && (q, specific) > (best.0, best.1) {
            best = (q, specific, index);
        }
    }
    best.2
}

/// Whether the answer may be compressed with gzip.
pub fn gzip(headers: &HeaderMap) -> bool {
    let joined = joined(headers, header::ACCEPT_ENCODING);
    let ranges: Vec<_> = joined.split(',').filter_map(parse_range).collect();
    let q = |names: &[&str]| {
        ranges.iter().filter(|range| names.iter().any(|name| range.name.eq_ignore_ascii_case(name))).map(|r| r.q).max()
    };
    let gzip = q(&["gzip", "x-gzip"]).or_else(|| q(&["*"])).unwrap_or(0);
    gzip > 0 && gzip >= q(&["identity"]).unwrap_or(0)
}

fn joined(headers: &HeaderMap, name: header::HeaderName) -> String {
    let values: Vec<_> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

fn parse_range(text: &str) -> Option<Range<'_>> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let mut range = Range { name, parameters: Vec::new(), q: 1000 };
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        let (key, value) = (key.trim(), value.trim().trim_matches('"'));
        if key.eq_ignore_ascii_case("q") {
            range.q = parse_q(value)?;
        } else {
            range.parameters.push((key, value));
        }
    }
    Some(range)
}

/// `None` for what is not a weight: its element is passed over.
fn parse_q(text: &str) -> Option<u32> {
    let q: f32 = text.parse().ok()?;
    (0.0..=1.0).contains(&q).then_some((q * 1000.0).round() as u32)
}

/// How closely the range names the offer; `None` if it does not. A range of another version does not.
fn specificity(range: &Range<'_>, offer: &Offer) -> Option<u32> {
    if range.name.eq_ignore_ascii_case(offer.name) {
        let version = range.parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case("version"));
        return match (version, offer.version) {
            (Some((_, asked)), Some(have)) => (*asked == have).then_some(4),
            _ => Some(3),
        };
    }
    let (kind, _) = offer.name.split_once('/')?;
    match range.name.split_once('/')? {
        ("*", "*") => Some(1),
        (asked, "*") if asked.eq_ignore_ascii_case(kind) => Some(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: [Offer; 2] = super::super::metrics::OFFERS;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn formats_are_chosen_by_weight() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;\
                          q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, expected) in [
            (prometheus, 1),
            ("", 0),
            ("*/*", 0),
            ("text/*;q=0.5, application/*;q=0.1", 0),
            ("application/openmetrics-text", 1),
            ("application/openmetrics-text; version=0.0.1", 0),
            ("application/openmetrics-text;version=\"1.0.0\";q=0.3, text/plain;q=0.9", 0),
            ("application/openmetrics-text;q=0, */*", 0),
            ("image/png", 0),
            (";;;,=,q=;q=x", 0),
            ("application/openmetrics-text;q=nan,text/plain;q=0.1", 0),
        ] {
            assert_eq!(choose(&headers(header::ACCEPT, accept), &PAGE), expected, "{accept}");
        }
    }

    #[test]
    fn gzip_is_used_only_when_accepted() {
        for (accept, expected) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("*", true),
            ("*;q=0", false),
            ("gzip;q=0, *", false),
            ("identity, gzip;q=0.5", false),
            ("br", false),
            ("", false),
        ] {
            assert_eq!(gzip(&headers(header::ACCEPT_ENCODING, accept)), expected, "{accept}");
        }
    }
}
