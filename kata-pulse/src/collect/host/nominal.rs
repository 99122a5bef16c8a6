//! Memory that a VM was given when it started: `-m` of QEMU's and Stratovirt's command line. Pure.
//!
//! What is plugged in later is not seen. The other VMMs are told over their socket, and nothing on the host shows it.

/// A guest cannot have more than this.
const MAX_BYTES: f64 = (1_u64 << 56) as f64;

/// Bytes, from the arguments as `/proc/<pid>/cmdline` has them: each ended by a zero.
pub fn parse(arguments: &[u8]) -> Option<u64> {
    let mut words = arguments.split(|&byte| byte == 0).skip(1);
    words.find(|word| *word == b"-m")?;
    let value = std::str::from_utf8(words.next()?).ok()?;
    // `2048M,slots=10,maxmem=…`, `size=2G,…` in any order, or a number of MiB.
    let mut parts = value.split(',');
    let size = parts.clone().find_map(|part| part.strip_prefix("size=")).or_else(|| parts.next())?;
    parse_size(size)
}

fn parse_size(size: &str) -> Option<u64> {
    let digits = size.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match &size[digits.len()..] {
        "b" | "B" => 0,
        "k" | "K" => 10,
        "" | "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        _ => return None,
    };
    let is_plain = digits.starts_with(|first: char| first.is_ascii_digit())
        && digits.chars().all(|letter| letter.is_ascii_digit() || letter == '.');
    let number: f64 = digits.parse().ok().filter(|_| is_plain)?;
    let bytes = number * (1_u64 << shift) as f64;
    (1.0..=MAX_BYTES).contains(&bytes).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn check(value: &str, expected: Option<u64>) {
        assert_eq!(parse(format!("qemu\0-name\0sandbox-x\0-m\0{value}\0-smp\x001\0").as_bytes()), expected, "{value}");
    }

    #[test]
    fn every_way_to_write_a_size_is_understood() {
        check("2048M,slots=10,maxmem=128715M", Some(2048 * MIB));
        check("size=2G,slots=2,maxmem=4G", Some(2048 * MIB));
        check("slots=2,maxmem=4G,size=512m", Some(512 * MIB));
        check("128", Some(128 * MIB));
        check("1.5G", Some(1536 * MIB));
        check("524288k", Some(512 * MIB));
        for nothing in ["", "M", "-1", "x", "1e9", "nan", "inf", "slots=3", "99999999T", "0"] {
            check(nothing, None);
        }
        assert_eq!(parse(b"-m\x00512M\0"), None, "the first word is the program");
        assert_eq!(parse(b"qemu\0-m"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..60), text in "\\PC{0,12}") {
            let _ = (parse(&bytes), parse(&[b"q\0-m\0", &bytes[..]].concat()));
            let _ = (parse_size(&text), parse(format!("q\0-m\0size={text}").as_bytes()));
        }
    }
}
