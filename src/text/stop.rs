//! Stop strings: the earliest match ends a text.

/// Cuts `text` before the earliest occurrence of any stop string; says whether there was one. Empty stop strings never match.
pub fn cut_at_stop<'t, S: AsRef<str>>(text: &'t str, stops: &[S]) -> (&'t str, bool) {
    let first = stops.iter().map(AsRef::as_ref).filter(|s| !s.is_empty()).filter_map(|s| text.find(s)).min();
    match first {
        Some(at) => (&text[..at], true),
        None => (text, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earliest_match_wins() {
        for (text, stops, expected) in [
            ("a\nb。c", &["。", "\n"][..], ("a", true)),
            ("東京。", &["。"], ("東京", true)),
            ("東京", &["。"], ("東京", false)),
            ("abc", &["", "bc"], ("a", true)),
            ("\n", &["\n"], ("", true)),
        ] {
            assert_eq!(cut_at_stop(text, stops), expected, "{text:?} {stops:?}");
        }
    }
}
